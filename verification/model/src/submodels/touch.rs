//! A touch records the use of a session, and must not revive one that has ended. The idle timeout
//! is four ticks. A touch arrives up to `delay` ticks after the first use that it records.

use super::{P, Q, SEEN, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

const IDLE: u8 = 4;

/// Whether a late touch succeeds.
#[derive(Clone, Copy, PartialEq)]
enum Writes {
    Always,
    /// If the session was active when the request arrived.
    ActiveThen,
    /// If it is active now, by Postgres' clock.
    ActiveNow,
}

/// A session with an idle timeout.
struct Touch {
    writes: Writes,
    delay: u8,
    /// In the last `delay` ticks, the touch precedes the response, and no entry is served.
    before_response: bool,
    /// An entry whose idle timeout has passed is Invalid.
    entry_is_invalid: bool,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    now: u8,
    /// `last_seen_at` in Postgres.
    last: u8,
    /// The last validation that returned Valid.
    used: u8,
    /// `last_seen_at` in the entry.
    entry: Option<u8>,
    /// A touch in progress: when it arrives at the latest, and the use that it records.
    late: Option<(u8, u8)>,
    invalid: bool,
}

const fn is_active(at: u8, last: u8) -> bool {
    at < last + IDLE
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (&[(P, "R2"), (Q, "R3")], &[(SEEN, "a validation is Valid")]);
    let run = |name, about, writes, before_response, entry_is_invalid| {
        let model = Touch { writes, delay: 2, before_response, entry_is_invalid };
        Run::new(name, about, NAMES, model)
    };
    vec![
        run("E4", "a late touch always succeeds", Writes::Always, false, false).breaks(P),
        run("E4b", "if the session was active then", Writes::ActiveThen, false, false).breaks(P),
        run("E4c", "no touch precedes the response", Writes::ActiveNow, false, false)
            .holds(P)
            .breaks(Q)
            .reaches(SEEN),
        run("E4d", "near the end a touch precedes the response", Writes::ActiveNow, true, false)
            .holds(P | Q)
            .reaches(SEEN),
        run("E4e", "an entry past its idle timeout is Invalid", Writes::ActiveNow, true, true)
            .breaks(Q),
    ]
}

impl Model for Touch {
    type State = State;

    fn start(&self) -> State {
        State { now: 1, last: 1, used: 1, ..State::default() }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        let now = s.now;
        if now < 18 && s.late.is_none_or(|(due, _)| now < due) {
            out.go(State { now: now + 1, ..*s }, ("tick {n}", now + 1));
        }
        self.read_postgres(s, out);
        if let Some(last) = s.entry {
            self.hit(s, last, out);
        }
        if is_active(now, s.last) && s.entry != Some(s.last) {
            let t = State { entry: Some(s.last), ..*s };
            out.go(t, ("fill, at {n}", now));
        }
        if let Some((_, used)) = s.late {
            let written = match self.writes {
                Writes::Always => true,
                Writes::ActiveThen => is_active(used, s.last),
                Writes::ActiveNow => is_active(now, s.last),
            };
            let mut t = State { late: None, ..*s };
            if written {
                t.last = s.last.max(used);
            }
            out.go(t, ("the touch arrives at {n}", now));
        }
    }
}

impl Touch {
    fn near_end(&self, s: &State, last: u8) -> bool {
        self.before_response && s.now + self.delay >= last + IDLE
    }

    fn read_postgres(&self, s: &State, out: &mut Steps<State>) {
        if !is_active(s.now, s.last) {
            deny(s, out, "a read of Postgres: INVALID, idle, at {n}");
        } else if self.near_end(s, s.last) {
            let t = State { used: s.now, last: s.now, ..*s };
            out.go(t, ("a read of Postgres: touches, VALID at {n}", s.now))
                .breaks(broken(P, s.invalid))
                .reaches(SEEN);
        } else {
            self.valid(s, out, "a read of Postgres: VALID at {n}, its touch follows");
        }
    }

    fn hit(&self, s: &State, last: u8, out: &mut Steps<State>) {
        if !is_active(s.now, last) {
            if self.entry_is_invalid {
                deny(s, out, "an entry past its idle timeout: INVALID at {n}");
            }
        } else if !self.near_end(s, last) {
            self.valid(s, out, "a hit: VALID at {n}, its touch follows");
        }
    }

    /// Returns Valid. The touch follows, or the one in progress records this use too.
    fn valid(&self, s: &State, out: &mut Steps<State>, text: &'static str) {
        let due = s.late.map_or(s.now + self.delay, |(due, _)| due);
        let t = State { used: s.now, late: Some((due, s.now)), ..*s };
        out.go(t, (text, s.now)).breaks(broken(P, s.invalid)).reaches(SEEN);
    }
}

fn deny(s: &State, out: &mut Steps<State>, text: &'static str) {
    let t = State { invalid: true, ..*s };
    out.go(t, (text, s.now)).breaks(broken(Q, is_active(s.now, s.used)));
}
