//! A fill in the network: lost, refused, or executed.

use super::link::name;
use super::state::{Link, Row, State, Value, number};
use super::{Fill, Protocol, Replace};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn fill(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let Some(fill) = s.fills[n] else {
            return;
        };
        let a = name(n);
        let mut t = *s;
        t.drop_fill(n);
        out.go(t, say("N{n}'s fill is lost").n(a)).fault();
        let link = Link {
            at: fill.at,
            incarnation: fill.incarnation,
        };
        if !self.writable(s, link) {
            return;
        }
        let key = self.key(fill.incarnation);
        let value = s.server(fill.at).keys[key];
        let stands = if self.0.mistakes.reuse_nonce {
            value.is_lease()
        } else {
            value == Value::FillLease(number(n))
        };
        let writes = match self.0.fill {
            Fill::CompareAndSet if self.0.replace == Replace::NoLease => {
                stands || matches!(value, Value::Nothing | Value::Copy { .. })
            }
            Fill::CompareAndSet => stands,
            Fill::PlainSet | Fill::NoLease => true,
            Fill::Tombstone => value == Value::Nothing,
        };
        if !writes {
            let label = say("N{n}'s fill is refused: not its lease any more");
            out.go(t, label.n(a));
            return;
        }
        t.server_mut(fill.at).keys[key] = match fill.of {
            Row::Absent => Value::NoSession,
            of => self.seal(fill.incarnation, of == Row::After),
        };
        t.sealed |= self.0.faults.hostile;
        let label = say("N{n}'s fill is executed on server {s}: V");
        out.go(t, label.n(a).on(fill.at.letter()));
    }
}
