//! touch: notes that a session is in use, late, and must not revive one that has ended. The idle timeout is
//! four ticks, and a touch arrives up to some ticks after the first use it tells of.

use super::{P, Q, SEEN, broken};
use crate::explore::{Model, Steps, say};

const IDLE: u8 = 4;

/// When a late touch is written.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Writes {
    Always,
    /// The session was alive when the request came.
    AliveThen,
    /// It is alive now, by Postgres' clock.
    AliveNow,
}

/// Touching.
pub(crate) struct Touch {
    pub(crate) writes: Writes,
    /// How late a touch may be.
    pub(crate) delay: u8,
    /// With less life left than a touch may be late, it comes before the answer, and a cached copy is not
    /// believed.
    pub(crate) before_answer: bool,
    /// A copy whose idle time is over says "invalid" by itself.
    pub(crate) copy_says_invalid: bool,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    now: u8,
    /// `last_seen_at` in Postgres.
    last: u8,
    /// The last Valid answer.
    active: u8,
    /// `last_seen_at` in the cached copy.
    copy: Option<u8>,
    /// A touch under way: when it has arrived at the latest, and the use that it tells of.
    late: Option<(u8, u8)>,
    invalid: bool,
}

const fn alive(at: u8, last: u8) -> bool {
    at < last + IDLE
}

impl Model for Touch {
    type State = State;

    fn start(&self) -> State {
        State {
            now: 1,
            last: 1,
            active: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        let now = s.now;
        if now < 18 && s.late.is_none_or(|(due, _)| now < due) {
            out.go(State { now: now + 1, ..*s }, say("tick {n}").n(now + 1));
        }
        self.ask_postgres(s, out);
        if let Some(last) = s.copy {
            self.hit(s, last, out);
        }
        if alive(now, s.last) && s.copy != Some(s.last) {
            let t = State {
                copy: Some(s.last),
                ..*s
            };
            out.go(t, say("fill, at {n}").n(now));
        }
        if let Some((_, used)) = s.late {
            let written = match self.writes {
                Writes::Always => true,
                Writes::AliveThen => alive(used, s.last),
                Writes::AliveNow => alive(now, s.last),
            };
            let mut t = State { late: None, ..*s };
            if written {
                t.last = s.last.max(used);
            }
            out.go(t, say("the touch arrives at {n}").n(now));
        }
    }
}

impl Touch {
    fn near_end(&self, s: &State, last: u8) -> bool {
        self.before_answer && s.now + self.delay >= last + IDLE
    }

    fn ask_postgres(&self, s: &State, out: &mut Steps<State>) {
        if !alive(s.now, s.last) {
            let label = say("validate (Postgres): INVALID, idle, at {n}");
            deny(s, out, label);
        } else if self.near_end(s, s.last) {
            let t = State {
                active: s.now,
                last: s.now,
                ..*s
            };
            out.go(
                t,
                say("validate (Postgres): touches, VALID at {n}").n(s.now),
            )
            .breaks(broken(P, s.invalid))
            .reaches(SEEN);
        } else {
            let label = say("validate (Postgres): VALID at {n}; its touch is under way");
            self.valid(s, out, label);
        }
    }

    fn hit(&self, s: &State, last: u8, out: &mut Steps<State>) {
        if !alive(s.now, last) {
            if self.copy_says_invalid {
                let label = say("validate (copy past its idle time): INVALID at {n}");
                deny(s, out, label);
            }
        } else if !self.near_end(s, last) {
            let label = say("validate (hit): VALID at {n}; its touch is under way");
            self.valid(s, out, label);
        }
    }

    /// Valid, with a touch that comes later; one that is under way already tells of this use too.
    fn valid(&self, s: &State, out: &mut Steps<State>, label: crate::explore::Label) {
        let due = s.late.map_or(s.now + self.delay, |(due, _)| due);
        let t = State {
            active: s.now,
            late: Some((due, s.now)),
            ..*s
        };
        out.go(t, label.n(s.now))
            .breaks(broken(P, s.invalid))
            .reaches(SEEN);
    }
}

fn deny(s: &State, out: &mut Steps<State>, label: crate::explore::Label) {
    let t = State {
        invalid: true,
        ..*s
    };
    out.go(t, label.n(s.now))
        .breaks(broken(Q, alive(s.now, s.active)));
}
