//! A TRUNCATE's row in the journal names no session: it ends every copy that was read before it. By what is
//! that told, if Postgres may crash and hand out transaction ids again?
//!
//! One copy, read before or after the TRUNCATE; a transaction that stays open; a node that knows the row as
//! soon as it is committed. Time in ticks, by Postgres' clock.

use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps, say};

/// No transaction id is larger.
const MOST: u8 = 6;
/// The last tick.
const END: u8 = 3;

/// Which copies the row ends.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ends {
    /// Those whose xmin is not after the row's transaction.
    Xmin,
    /// Also those that were not read after the row's time, as it is built.
    XminAndTime,
    /// The same, but one that was read at that very moment lives on.
    XminAndEarlier,
    /// Those that were not read after the row's time.
    Time,
}

/// A TRUNCATE, and copies.
pub(crate) struct Truncated {
    pub(crate) ends: Ends,
}

#[derive(Clone, Copy, Hash)]
struct Truncate {
    xid: u8,
    /// When its transaction began.
    at: u8,
    committed: bool,
}

#[derive(Clone, Copy, Hash)]
struct Copy {
    xmin: u8,
    read_at: u8,
    /// The TRUNCATE had not committed.
    stale: bool,
    /// Nothing was open, and the TRUNCATE was some time ago.
    clearly_new: bool,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    next_id: u8,
    now: u8,
    /// Another transaction that is open.
    open: Option<u8>,
    truncate: Option<Truncate>,
    copy: Option<Copy>,
    crashed_at: Option<u8>,
}

impl State {
    fn xmin(&self) -> u8 {
        let truncate = self.truncate.filter(|truncate| !truncate.committed);
        let open = [self.open, truncate.map(|truncate| truncate.xid)];
        open.into_iter().flatten().min().unwrap_or(self.next_id)
    }
}

impl Model for Truncated {
    type State = State;

    fn start(&self) -> State {
        State {
            next_id: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        if s.now < END {
            let mut t = *s;
            t.now += 1;
            out.go(t, say("tick {n}").n(t.now));
        }
        if let Some(id) = s.open {
            let mut t = *s;
            t.open = None;
            out.go(t, say("transaction {n} ends").n(id));
        } else if s.next_id < MOST {
            let mut t = *s;
            t.open = Some(s.next_id);
            t.next_id += 1;
            out.go(t, say("some transaction {n} begins").n(s.next_id));
        }
        truncate(s, out);
        if s.crashed_at.is_none() {
            crash(s, out);
        }
        match s.copy {
            None => read(s, out),
            Some(copy) => self.hit(s, copy, out),
        }
    }
}

impl Truncated {
    fn hit(&self, s: &State, copy: Copy, out: &mut Steps<State>) {
        let known = s.truncate.filter(|truncate| truncate.committed);
        let ended = known.is_some_and(|row| match self.ends {
            Ends::Xmin => copy.xmin <= row.xid,
            Ends::XminAndTime => copy.xmin <= row.xid || copy.read_at <= row.at,
            Ends::XminAndEarlier => copy.xmin <= row.xid || copy.read_at < row.at,
            Ends::Time => copy.read_at <= row.at,
        });
        if !ended {
            let after = if copy.clearly_new { SEEN_TOO } else { 0 };
            out.go(*s, say("the node hits V: VALID"))
                .breaks(broken(P, known.is_some() && copy.stale))
                .reaches(SEEN | after);
        } else if copy.clearly_new {
            let label = say("the node does not believe V, which was read after the TRUNCATE");
            out.go(*s, label).breaks(Q);
        }
    }
}

fn read(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    let stale = s.truncate.is_none_or(|truncate| !truncate.committed);
    let long_ago = s.truncate.is_some_and(|truncate| truncate.at < s.now);
    t.copy = Some(Copy {
        xmin: s.xmin(),
        read_at: s.now,
        stale,
        clearly_new: !stale && long_ago && s.open.is_none(),
    });
    let label = say("a read says valid, its snapshot's xmin is {n}; V");
    out.go(t, label.n(s.xmin()));
}

fn truncate(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    match s.truncate {
        None if s.next_id < MOST => {
            t.next_id += 1;
            // Its transaction may have begun before it had an id, if not before a crash.
            for at in s.crashed_at.unwrap_or(0)..=s.now {
                t.truncate = Some(Truncate {
                    xid: s.next_id,
                    at,
                    committed: false,
                });
                out.go(t, say("transaction {n} TRUNCATEs").n(s.next_id));
            }
        }
        Some(row) if !row.committed => {
            t.truncate = Some(Truncate {
                committed: true,
                ..row
            });
            out.go(t, say("transaction {n}, the TRUNCATE: COMMIT").n(row.xid));
        }
        None | Some(_) => {}
    }
}

/// What was open is rolled back; ids of which no log was flushed are handed out again.
fn crash(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    t.crashed_at = Some(s.now);
    t.open = None;
    t.truncate = s.truncate.filter(|truncate| truncate.committed);
    for next_id in t.truncate.map_or(0, |row| row.xid) + 1..=s.next_id {
        t.next_id = next_id;
        let label = say("Postgres crashes, and recovers; its next transaction id is {n}");
        out.go(t, label.n(next_id));
    }
}
