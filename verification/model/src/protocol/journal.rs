//! A node's reads of the journal, its pauses and restarts, and the passing of a bound.

use super::state::{Known, Node, Reading, Row, State, Value, name};
use super::{Bound, Mistake, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    pub(super) fn read_journal(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        if !self.0.journal {
            return;
        }
        let node = s.nodes[n];
        let mut t = *s;
        if node.reading != Reading::No {
            self.end_reading(s, n, out);
        } else if !node.paused && !matches!(node.known, Known::Changed | Known::Missed) {
            let reading = match s.row {
                Row::After if self.makes(Mistake::TimeWindow) => Reading::Skipping,
                Row::After => Reading::With,
                Row::Absent | Row::Before => Reading::Without,
            };
            for node in &mut t.nodes[self.process(n)] {
                node.reading = reading;
            }
            out.go(t, ("N{n}: a journal read begins", name(n)));
        }
        if self.0.pauses {
            self.pause(s, n, out);
        }
        if self.0.settles && node.known == Known::Changed && !node.unlinked {
            self.unlink_changed(s, n, out);
        }
        if s.left.node_restart > 0 {
            let mut t = *s;
            t.left.node_restart -= 1;
            for n in self.process(n) {
                t.end(n);
                self.set_link(&mut t, n, None);
                let node = &mut t.nodes[n];
                (node.reading, node.known, node.unlinked) = (Reading::No, Known::NotLoaded, false);
                node.paused = false;
                (node.pending, node.held, node.own) = (false, false, false);
                (node.invalid, node.near) = (false, Row::Absent);
            }
            out.go(t, ("N{n}: the process restarts", name(n))).fault();
        }
    }

    fn end_reading(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let c = &self.0;
        let node = s.nodes[n];
        // The age counts from the start of the read. One that began before the COMMIT and ends D
        // after it does not make the node fresh.
        let is_fresh = !s.past.elapsed || c.bound != Bound::D || !c.fail_closed;
        let mut t = *s;
        for node in &mut t.nodes[self.process(n)] {
            node.reading = Reading::No;
        }
        out.go(t, ("N{n}: the journal read fails", name(n))).fault();
        let known = match (node.reading, node.known) {
            (Reading::With, _) | (_, Known::Changed) => Known::Changed,
            (Reading::Skipping, _) => Known::Missed,
            (Reading::Without, _) if is_fresh || self.makes(Mistake::AgeFromEnd) => Known::Fresh,
            _ => Known::Stale,
        };
        let is_shown = node.reading == Reading::With || self.makes(Mistake::HeldUntilAnyRead);
        for node in &mut t.nodes[self.process(n)] {
            node.known = known;
            node.held &= !is_shown;
        }
        out.go(t, ("N{n}: the journal read ends", name(n)));
    }

    /// Pauses between two reads of the journal. The node then serves nothing until a read that
    /// began after its wake-up has ended.
    fn pause(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let node = s.nodes[n];
        if node.paused || node.reading != Reading::No {
            return;
        }
        let mut t = *s;
        for node in &mut t.nodes[self.process(n)] {
            node.paused = true;
            if !self.makes(Mistake::ServesOnWaking) {
                node.known = Known::NotLoaded;
            }
        }
        out.go(t, ("N{n}: pauses, because there is no traffic", name(n)));
    }

    /// Sends UNLINK for the journal's row.
    fn unlink_changed(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let Some(link) = s.live(s.nodes[n].link) else {
            return;
        };
        let here = |text| (text, name(n), link.at.letter());
        let mut t = *s;
        if s.is_writable(link) {
            t.server_mut(link.at).value = Value::Nothing;
            t.nodes[n].unlinked = true;
            out.go(t, here("N{n}: the journal's UNLINK on server {s}"));
        } else {
            self.set_link(&mut t, n, None);
            out.go(t, here("N{n}: server {s} refuses the journal's UNLINK (READONLY)"));
        }
    }

    /// Lets the bound pass. The model counts no time. Instead, one step makes everything stale that
    /// was not renewed since the bound began.
    pub(super) fn pass_bound(&self, s: &State<N>, out: &mut Steps<State<N>>) {
        let mut t = *s;
        t.past.elapsed = true;
        match self.0.bound {
            Bound::D if s.row == Row::After && !s.past.elapsed => {
                // No read is due on a paused node, so its age says nothing.
                let is_judged = |node: &&mut Node| node.known == Known::Fresh && !node.paused;
                for node in t.nodes.iter_mut().filter(is_judged) {
                    node.known = if self.0.fail_closed { Known::Stale } else { Known::Fresh };
                }
                out.go(t, "D has passed since the COMMIT");
            }
            Bound::Recheck if s.past.propagated && !s.past.elapsed => {
                for n in 0..N {
                    if !t.nodes[n].rechecked && !self.makes(Mistake::CheckAtConnectOnly) {
                        self.set_link(&mut t, n, None);
                        self.cut_off(&mut t, n);
                    }
                    t.nodes[n].rechecked = false;
                }
                out.go(t, "a second has passed since PROPAGATED");
            }
            Bound::None | Bound::D | Bound::Recheck => {}
        }
    }
}
