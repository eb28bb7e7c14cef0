//! The near cache: entries in the memory of a node, in front of Redis.

use std::ops::Range;

use super::promises::{NEAR, NEAR_ALONE, NEAR_LATE, NEW_HIT, return_valid};
use super::state::{Known, Op, Row, State, name};
use super::{Mistake, Mode, Near, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    /// Returns the validations that share this one's memory.
    pub(super) fn process(&self, n: usize) -> Range<usize> {
        if self.0.near == Near::Shared { 0..N } else { n..n + 1 }
    }

    /// Inserts what was served or read, if the validation's ticket is valid.
    pub(super) fn insert_near(&self, s: &mut State<N>, n: usize, row: Row) {
        let has_near = match self.0.near {
            Near::None => false,
            Near::First => n == 0,
            Near::Each | Near::Shared => true,
        };
        if has_near && !s.nodes[n].refused {
            for node in &mut s.nodes[self.process(n)] {
                node.near = row;
            }
        }
    }

    /// Drops the entry, and invalidates the tickets.
    pub(super) fn drop_near(&self, s: &mut State<N>, n: usize) {
        for node in &mut s.nodes[self.process(n)] {
            node.near = Row::Absent;
            let has_ticket = self.0.near != Near::None && node.op != Op::Idle;
            node.refused |= has_ticket && !self.makes(Mistake::NoTicket);
        }
    }

    /// Does so where a result is returned, unless a mutant does not, or did so before.
    pub(super) fn drop_near_unless(&self, mistakes: &[Mistake], s: &mut State<N>, n: usize) {
        if !mistakes.iter().any(|mistake| self.makes(*mistake)) {
            self.drop_near(s, n);
        }
    }

    /// Drops an entry whose session has ended according to the journal. The row was added to the
    /// changed-set before.
    pub(super) fn drop_changed(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let node = &s.nodes[n];
        let has_ended = node.known == Known::Changed && self.0.mode != Mode::Update;
        if has_ended && node.near != Row::Absent {
            let mut t = *s;
            self.drop_near(&mut t, n);
            out.go(t, ("N{n}: drops its near entry, because of the journal's row", name(n)));
        }
    }

    /// Decides on a near entry.
    pub(super) fn judge_near(&self, s: &State<N>, n: usize, row: Row, out: &mut Steps<State<N>>) {
        let here = |text| (text, name(n));
        let mut t = *s;
        if !self.is_near_served(s, n, row == Row::After) {
            t.nodes[n].op = Op::Get;
            out.go(t, here("N{n}: the near entry is not served, looks in Redis"));
        } else if row == Row::After {
            let broken = self.return_invalid(&mut t, n);
            out.go(t, here("N{n}: the new data (near hit)")).breaks(broken).reaches(NEAR | NEW_HIT);
        } else {
            let broken = return_valid(&mut t, n);
            let is_alone = self.servers().all(|at| !s.server(at).up);
            out.go(t, here("N{n}: VALID (near hit)"))
                .breaks(broken)
                .reaches(NEAR)
                .reaches(if is_alone { NEAR_ALONE } else { 0 })
                .reaches(if s.row == Row::After { NEAR_LATE } else { 0 });
        }
    }

    /// Returns whether this node serves a near entry of the row before (or after) the change.
    fn is_near_served(&self, s: &State<N>, n: usize, new: bool) -> bool {
        let node = &s.nodes[n];
        let is_skipped = |mistake, known| self.makes(mistake) && node.known == known;
        if is_skipped(Mistake::NearWithoutSet, Known::Changed)
            || is_skipped(Mistake::NearWithoutAge, Known::Stale)
        {
            return true;
        }
        if self.makes(Mistake::NearWithoutPending) {
            let mut t = *s;
            (t.nodes[n].pending, t.nodes[n].since_pending) = (false, false);
            return self.is_served(&t, n, new);
        }
        self.is_served(s, n, new)
    }
}
