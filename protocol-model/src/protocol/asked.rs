//! Postgres has answered: what goes to the caller, and what is done before and behind that.

use super::link::name;
use super::promises::{INVALID, answer_valid};
use super::state::{Filling, Link, Op, Row, State, Value, number};
use super::{Cleanup, FillLink, Gone, Mode, Pending, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn end_read(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let c = &self.0;
        let node = s.nodes[n];
        let fillable = match node.read {
            Row::Before => true,
            Row::After => c.mode == Mode::Update,
            Row::Absent => c.mistakes.negative,
        };
        let Some(granted) = node.lease.filter(|_| fillable) else {
            self.answer(s, n, false, out);
            return;
        };
        let mut t = *s;
        // Of two fills of one node, only the last one is followed: the other one is lost.
        if s.fills[n].is_some() {
            let mut lost = *s;
            lost.drop_lease(n);
            self.answer(&lost, n, false, out);
            t.drop_fill(n);
        }
        let link = match c.fill_link {
            FillLink::Same => Some(granted),
            FillLink::OtherSameSeal => node.link.map(|link| Link {
                at: link.at,
                incarnation: granted.incarnation,
            }),
            FillLink::OtherNewSeal => node.link,
        };
        let Some(link) = link else {
            t.drop_lease(n);
            self.answer(&t, n, false, out);
            return;
        };
        t.rename(Value::Lease(number(n)), Value::FillLease(number(n)));
        t.nodes[n].lease = None;
        t.fills[n] = Some(Filling {
            at: link.at,
            incarnation: link.incarnation,
            of: node.read,
        });
        self.answer(&t, n, true, out);
    }

    /// The answer goes out, or what must come before it.
    fn answer(&self, s: &State<N>, n: usize, fills: bool, out: &mut Steps<State<N>>) {
        let c = &self.0;
        let node = s.nodes[n];
        let mut t = *s;
        if node.read == Row::Before {
            let broken = answer_valid(&mut t, n);
            let label = match (c.mode == Mode::Update, fills) {
                (true, false) => "N{n}: answers OLD DATA (Postgres)",
                (true, true) => "N{n}: answers OLD DATA (Postgres); its fill is in the network",
                (false, false) => "N{n}: answers VALID (Postgres)",
                (false, true) => "N{n}: answers VALID (Postgres); its fill is in the network",
            };
            out.go(t, say(label).n(name(n))).breaks(broken);
            return;
        }
        let no_row = node.read == Row::Absent || c.mode == Mode::Delete;
        let removes = if no_row {
            match c.gone {
                Gone::Nothing => false,
                Gone::UnlessLeased => node.lease.is_none(),
                Gone::Unlink => true,
            }
        } else {
            c.cleanup != Cleanup::Nothing && c.mode != Mode::Update
        };
        if removes {
            t.drop_lease(n);
            t.nodes[n].op = Op::Remove;
            t.nodes[n].read = Row::Absent;
            let label = say("N{n}: Postgres says that it has ended; the key has to go first");
            out.go(t, label.n(name(n)));
            return;
        }
        let broken = self.answer_invalid(&mut t, n);
        let label = match (c.mode == Mode::Update, fills) {
            (true, false) => "N{n}: answers NEW DATA (Postgres)",
            (true, true) => "N{n}: answers NEW DATA (Postgres); its fill is in the network",
            (false, false) if node.lease.is_some() => {
                "N{n}: answers INVALID (Postgres), leaving its lease"
            }
            (false, false) => "N{n}: answers INVALID (Postgres)",
            (false, true) => {
                "N{n}: answers INVALID (Postgres); its negative fill is in the network"
            }
        };
        out.go(t, say(label).n(name(n)))
            .breaks(broken)
            .reaches(INVALID);
    }

    /// UNLINK before "invalid".
    pub(super) fn remove(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let a = name(n);
        let pending = self.0.pending != Pending::Off;
        let link = s.live(s.nodes[n].link);
        // With the pending set on, an UNLINK is lost only where a fault is asked for or there is no link.
        let may_be_lost =
            !pending || self.0.faults.unlink_loss || !link.is_some_and(|l| self.writable(s, l));
        if self.0.cleanup == Cleanup::OrUnavailable {
            let mut t = *s;
            t.end(n);
            out.go(t, say("N{n}: UNLINK lost; answers Unavailable").n(a))
                .fault();
        } else if may_be_lost {
            let mut t = *s;
            let broken = self.answer_invalid(&mut t, n);
            if pending {
                // This node knows better than to believe a copy. The others are promised R2 at once only
                // where the UNLINK is acknowledged.
                t.past.invalid = s.past.invalid;
                t.nodes[n].pending = true;
            }
            out.go(t, say("N{n}: UNLINK lost; answers INVALID").n(a))
                .breaks(broken)
                .reaches(INVALID);
        }
        let Some(link) = link else {
            return;
        };
        let mut t = *s;
        if !self.writable(s, link) {
            self.refused(&mut t, n);
            out.go(t, say("N{n}: UNLINK refused (READONLY)").n(a));
            return;
        }
        t.server_mut(link.at).keys[self.key(link.incarnation)] = Value::Nothing;
        let broken = self.answer_invalid(&mut t, n);
        let label = say("N{n}: UNLINK on server {s}; answers INVALID");
        out.go(t, label.n(a).on(link.at.letter()))
            .breaks(broken)
            .reaches(INVALID);
    }
}
