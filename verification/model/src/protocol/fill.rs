//! A fill in the network: lost, refused, or executed.

use super::state::{Row, State, Value, name, number};
use super::{Mistake, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    pub(super) fn fill(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let Some(fill) = s.fills[n] else {
            return;
        };
        let here = |text| (text, name(n), fill.to.at.letter());
        let mut t = *s;
        t.drop_fill(n);
        out.go(t, here("N{n}: its fill is lost")).fault();
        if !s.is_writable(fill.to) {
            return;
        }
        let value = s.server(fill.to.at).value;
        let is_own = value == Value::FillLease(number(n))
            || value.is_lease() && self.makes(Mistake::ReusedNonce);
        let writes = if self.makes(Mistake::PlainSet) || self.makes(Mistake::NoLease) {
            true
        } else if self.makes(Mistake::Tombstone) {
            value == Value::Nothing
        } else {
            let is_free = matches!(value, Value::Nothing | Value::Entry { .. });
            is_own || is_free && self.makes(Mistake::ReplaceWithoutLease)
        };
        if !writes {
            out.go(t, here("N{n}: server {s} refuses its fill, because the lease is gone"));
            return;
        }
        let incarnation = fill.to.incarnation;
        t.server_mut(fill.to.at).value = match fill.of {
            Row::Absent => Value::NoSession,
            of => Value::Entry { incarnation, new: of == Row::After },
        };
        t.sealed |= self.0.hostile;
        out.go(t, here("N{n}: server {s} executes its fill"));
    }
}
