//! A node reads the journal, unlinks what it finds there, and restarts.

use super::link::name;
use super::state::{Known, Reading, Row, State, Value};
use super::{Bound, Hold, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn read_journal(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        if !self.0.journal {
            return;
        }
        let node = s.nodes[n];
        if node.reading != Reading::No {
            self.end_reading(s, n, out);
        } else if !matches!(node.known, Known::Changed | Known::Missed) {
            self.begin_reading(s, n, out);
        }
        self.unlink_what_changed(s, n, out);
        if s.left.node_restart > 0 {
            let mut t = *s;
            t.left.node_restart -= 1;
            t.end(n);
            self.set_link(&mut t, n, None);
            let node = &mut t.nodes[n];
            (node.reading, node.known, node.unlinked) = (Reading::No, Known::NotLoaded, false);
            (node.pending, node.held, node.own) = (false, false, false);
            let label = say("N{n}: the process restarts with an empty changed-set");
            out.go(t, label.n(name(n))).fault();
        }
    }

    fn begin_reading(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let mut t = *s;
        let (reading, label) = match s.row {
            Row::After if self.0.mistakes.time_window => (
                Reading::Skipping,
                "N{n}: journal read begins; the row committed late and lies before the window",
            ),
            Row::After => (Reading::With, "N{n}: journal read begins"),
            Row::Absent | Row::Before => (Reading::Without, "N{n}: journal read begins"),
        };
        t.nodes[n].reading = reading;
        out.go(t, say(label).n(name(n)));
    }

    fn end_reading(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let c = &self.0;
        let node = s.nodes[n];
        // The age counts from the beginning of the read: one that began before the COMMIT and ends D
        // after it does not make the node fresh.
        let fresh = !s.past.elapsed
            || c.mistakes.age_from_end
            || !c.fail_closed
            || c.bound == Bound::Recheck;
        let mut t = *s;
        t.nodes[n].reading = Reading::No;
        out.go(t, say("N{n}: journal read fails").n(name(n)))
            .fault();
        t.nodes[n].known = match (node.reading, node.known) {
            (Reading::With, _) | (_, Known::Changed) => Known::Changed,
            (Reading::Skipping, _) => Known::Missed,
            (Reading::Without, _) if fresh => Known::Fresh,
            _ => Known::Stale,
        };
        if node.reading == Reading::With || c.hold == Hold::UntilAnyRead {
            t.nodes[n].held = false;
        }
        out.go(t, say("N{n}: journal read ends").n(name(n)));
    }

    fn unlink_what_changed(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let node = s.nodes[n];
        if !self.0.quiet || node.known != Known::Changed || node.unlinked {
            return;
        }
        let Some(link) = s.live(node.link) else {
            return;
        };
        let mut t = *s;
        if self.writable(s, link) {
            t.server_mut(link.at).keys[self.key(link.incarnation)] = Value::Nothing;
            t.nodes[n].unlinked = true;
            let label = say("N{n}: journal's UNLINK on server {s}");
            out.go(t, label.n(name(n)).on(link.at.letter()));
        } else {
            self.refused(&mut t, n);
            let label = say("N{n}: journal's UNLINK refused (READONLY)");
            out.go(t, label.n(name(n)));
        }
    }
}
