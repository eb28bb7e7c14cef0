//! `V` carries the xmin of the read that made it, and is believed only if that is not older than where the
//! node's journal begins. What if Postgres fails over, and the ids it hands out are older again?
//!
//! One session; a reader that fills a copy of it; a revocation; a purge; a node that starts and loads the
//! journal. The copy survives everything (its UNLINK is lost).

use super::tail::Successor;
use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps, say};

/// No transaction id is larger.
const MOST: u8 = 6;

/// Where a starting node's journal begins.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Begins {
    /// At the stored floor: all rows there are get loaded, as it is designed.
    Floor,
    /// At the present snapshot's xmin.
    Present,
}

/// What holds rows in the journal.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Purge {
    /// Nothing but the present snapshot's xmin.
    Any,
    /// Also their age: no copy that is older than the row lives any more.
    OfAge,
}

/// Copies and positions across a failover.
pub(crate) struct Reused {
    pub(crate) begins: Begins,
    pub(crate) purge: Purge,
    pub(crate) successor: Successor,
    /// The floor that a dump brought along counts for nothing on the system it was restored into.
    pub(crate) floor_bound: bool,
    /// A copy carries the timeline of its read, and one of another timeline is not believed.
    pub(crate) timeline_in_copy: bool,
    /// The node looks at the xmin at all.
    pub(crate) compares: bool,
}

/// A point in the order of transactions, as a server tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Point {
    timeline: u8,
    id: u8,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    timeline: u8,
    /// Another Postgres has answered, or the same one after a crash.
    succeeded: bool,
    next_id: u8,
    /// Another transaction that is open, and keeps the snapshots' xmin where it is.
    open: Option<u8>,
    /// The revocation.
    revoked: Option<Point>,
    copy: Option<Point>,
    /// TTL and lease have passed since the revocation.
    of_age: bool,
    floor: u8,
    /// The transaction that purged last: where its floor is known, so is that it committed.
    purged_by: u8,
    /// The node: where its journal begins, and whether it knows of the revocation.
    node: Option<(Point, bool)>,
}

impl State {
    fn xmin(&self) -> Point {
        Point {
            timeline: self.timeline,
            id: self.open.unwrap_or(self.next_id),
        }
    }
}

impl Model for Reused {
    type State = State;

    fn start(&self) -> State {
        State {
            next_id: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        change(s, out);
        if !s.succeeded {
            self.succeed(s, out);
        }
        if s.copy.is_none() && s.revoked.is_none() {
            let mut t = *s;
            t.copy = Some(s.xmin());
            let label = say("a read says valid, its snapshot's xmin is {n}; V");
            out.go(t, label.n(s.xmin().id));
        }
        if s.revoked.is_some() && !s.of_age {
            let mut t = *s;
            t.of_age = true;
            t.copy = None;
            let label = say("TTL and lease have passed since the revocation; V has died");
            out.go(t, label);
        }
        let may_purge = self.purge == Purge::Any || s.of_age || s.revoked.is_none();
        if may_purge && s.xmin().id > s.floor && s.next_id < MOST {
            let mut t = *s;
            t.floor = s.xmin().id;
            t.purged_by = s.next_id;
            t.next_id += 1;
            out.go(t, say("the journal is purged below {n}").n(t.floor));
        }
        self.start_and_hit(s, out);
    }
}

impl Reused {
    fn succeed(&self, s: &State, out: &mut Steps<State>) {
        let least = match self.successor {
            Successor::Never => return,
            // Whatever was not replicated (or flushed) is handed out again; what was committed stays.
            Successor::Crash | Successor::Standby => {
                let last = s.revoked.map_or(0, |revoked| revoked.id);
                last.max(s.purged_by) + 1
            }
            Successor::Restored | Successor::Any => 1,
        };
        for next_id in least..=s.next_id {
            let mut t = *s;
            (t.succeeded, t.next_id, t.open) = (true, next_id, None);
            t.timeline = u8::from(self.successor != Successor::Crash);
            if self.successor == Successor::Restored && self.floor_bound {
                t.floor = 0;
                if let Some((begin, knows)) = &mut t.node {
                    *begin = Point::default();
                    *knows = s.revoked.is_some();
                }
            }
            let label = say(if self.successor == Successor::Crash {
                "Postgres crashes, and recovers; its next transaction id is {n}"
            } else {
                "another Postgres answers; its next transaction id is {n}"
            });
            out.go(t, label.n(next_id));
        }
    }

    fn start_and_hit(&self, s: &State, out: &mut Steps<State>) {
        let Some((begin, knows)) = s.node else {
            let mut t = *s;
            let begin = match self.begins {
                Begins::Floor => Point {
                    timeline: s.timeline,
                    id: s.floor,
                },
                Begins::Present => s.xmin(),
            };
            let loaded = s.revoked.is_some_and(|revoked| revoked.id >= begin.id);
            t.node = Some((begin, loaded));
            let label = say("a node starts; its journal begins at {n}");
            out.go(t, label.n(begin.id));
            return;
        };
        let Some(copy) = s.copy else {
            return;
        };
        let fresh = copy == s.xmin() && s.revoked.is_none();
        let comparable = !self.timeline_in_copy || copy.timeline == s.timeline;
        let believed = !knows && (!self.compares || comparable && copy.id >= begin.id);
        if believed {
            let seen = if s.succeeded { SEEN_TOO } else { 0 };
            out.go(*s, say("the node hits V: VALID"))
                .breaks(broken(P, s.revoked.is_some()))
                .reaches(SEEN | seen);
        } else if fresh {
            let label = say("the node does not believe V, which was read just now");
            out.go(*s, label).breaks(Q);
        }
    }
}

fn change(s: &State, out: &mut Steps<State>) {
    if s.open.is_none() && s.next_id < MOST {
        let mut t = *s;
        t.open = Some(s.next_id);
        t.next_id += 1;
        out.go(t, say("some transaction {n} begins").n(s.next_id));
    }
    if let Some(id) = s.open {
        let mut t = *s;
        t.open = None;
        out.go(t, say("transaction {n} ends").n(id));
    }
    if s.revoked.is_none() && s.next_id < MOST {
        let mut t = *s;
        t.revoked = Some(Point {
            timeline: s.timeline,
            id: s.next_id,
        });
        t.next_id += 1;
        if let Some((_, knows)) = &mut t.node {
            *knows = true;
        }
        let label = say("transaction {n} revokes the session: COMMIT; its UNLINK is lost");
        out.go(t, label.n(s.next_id));
    }
}
