//! A read of Postgres, and what the node does before and after it returns the result.

use super::promises::{INVALID, return_valid};
use super::state::{Filling, Op, Row, State, Value, name, number};
use super::{Mistake, Mode, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    pub(super) fn begin_read(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let mut t = *s;
        t.nodes[n].read = s.row;
        t.nodes[n].op = Op::Read;
        let text = match (s.row, self.0.mode) {
            (Row::Absent, _) | (Row::After, Mode::Delete) => "N{n}: Postgres' snapshot has no row",
            (Row::Before, _) => "N{n}: Postgres' snapshot shows the row before the change",
            (Row::After, _) => "N{n}: Postgres' snapshot shows the row after the change",
        };
        out.go(t, (text, name(n)));
        let other = usize::from(n == 0);
        if self.makes(Mistake::JoinedRead) && s.nodes[other].op == Op::Read {
            t.nodes[n].read = s.nodes[other].read;
            out.go(t, ("N{n}: joins a read of Postgres in flight", name(n)));
        }
    }

    pub(super) fn end_read(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let node = s.nodes[n];
        let is_fillable = match node.read {
            Row::Before => true,
            Row::After => self.0.mode == Mode::Update,
            Row::Absent => self.makes(Mistake::NegativeCaching),
        };
        let Some(granted) = node.lease.filter(|_| is_fillable) else {
            return self.reply(s, n, out);
        };
        let mut t = *s;
        // The model follows one fill of each node. The older one is lost.
        if s.fills[n].is_some() {
            let mut lost = *s;
            lost.drop_lease(n);
            self.reply(&lost, n, out);
            t.drop_fill(n);
        }
        let on_present = self.makes(Mistake::FillOnPresentLink);
        let Some(to) = (if on_present { node.link } else { Some(granted) }) else {
            t.drop_lease(n);
            return self.reply(&t, n, out);
        };
        t.rename(Value::Lease(number(n)), Value::FillLease(number(n)));
        t.nodes[n].lease = None;
        t.fills[n] = Some(Filling { to, of: node.read });
        self.reply(&t, n, out);
    }

    /// Returns the result, or sends the UNLINK that must precede it.
    fn reply(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let node = s.nodes[n];
        let here = |text| (text, name(n));
        let mut t = *s;
        if node.read == Row::Before {
            self.insert_near(&mut t, n, Row::Before);
            let broken = return_valid(&mut t, n);
            out.go(t, here("N{n}: VALID (Postgres), fills if it has the lease")).breaks(broken);
            return;
        }
        let has_no_row = node.read == Row::Absent || self.0.mode == Mode::Delete;
        let removes = if has_no_row {
            let keeps = node.lease.is_some() && self.makes(Mistake::KeepsGoneIfLeased);
            !keeps && !self.makes(Mistake::KeepsGone)
        } else {
            self.0.mode != Mode::Update && !self.makes(Mistake::KeepsRevoked)
        };
        if removes {
            t.drop_lease(n);
            if self.makes(Mistake::DropsNearBeforeUnlink) {
                self.drop_near(&mut t, n);
            }
            (t.nodes[n].op, t.nodes[n].read) = (Op::Remove, Row::Absent);
            out.go(t, here("N{n}: no active session, removes the key first"));
            return;
        }
        if node.read == Row::After {
            self.insert_near(&mut t, n, Row::After);
        }
        let broken = self.return_invalid(&mut t, n);
        out.go(t, here("N{n}: INVALID (Postgres)")).breaks(broken).reaches(INVALID);
    }

    /// Sends UNLINK, then returns Invalid.
    pub(super) fn remove(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let link = s.live(s.nodes[n].link);
        let writable = link.filter(|link| s.is_writable(*link));
        let keeps_near = &[Mistake::KeepsNear, Mistake::DropsNearBeforeUnlink];
        if self.0.unlink_loss || writable.is_none() {
            let mut t = *s;
            self.drop_near_unless(keeps_near, &mut t, n);
            let broken = self.return_invalid(&mut t, n);
            // This node serves no such entry. For the others, R2 then holds after D only.
            if !self.0.unacknowledged {
                t.past.invalid = s.past.invalid;
            }
            for node in &mut t.nodes[self.process(n)] {
                node.pending = true;
            }
            out.go(t, ("N{n}: UNLINK lost, INVALID", name(n))).breaks(broken).reaches(INVALID);
        }
        let Some(link) = link else {
            return;
        };
        let here = |text| (text, name(n), link.at.letter());
        let mut t = *s;
        if writable.is_none() {
            self.set_link(&mut t, n, None);
            out.go(t, here("N{n}: server {s} refuses the UNLINK (READONLY)"));
            return;
        }
        t.server_mut(link.at).value = Value::Nothing;
        self.drop_near_unless(keeps_near, &mut t, n);
        let broken = self.return_invalid(&mut t, n);
        out.go(t, here("N{n}: UNLINK on server {s}, INVALID")).breaks(broken).reaches(INVALID);
    }
}
