//! A second cache in front, in the node itself: from when on does an entry's life there count?

use super::{P, SEEN, broken};
use crate::explore::{Model, Steps, say};

/// L1 with a life of some ticks.
pub(crate) struct L1 {
    pub(crate) life: u8,
    /// From the start of the validate that brought the entry (else from its insertion).
    pub(crate) from_start: bool,
}

#[derive(Clone, Copy, Hash, Default, PartialEq)]
enum Stage {
    #[default]
    Idle,
    Started(u8),
    /// Has the entry, and had started then.
    Got(u8),
    /// In L1 until then.
    Held(u8),
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    now: u8,
    stage: Stage,
    unlinked: Option<u8>,
}

impl Model for L1 {
    type State = State;

    fn start(&self) -> State {
        State {
            now: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        let now = s.now;
        let at = |stage| State { stage, ..*s };
        if now < 10 {
            out.go(State { now: now + 1, ..*s }, say("tick {n}").n(now + 1));
        }
        match s.stage {
            Stage::Idle => {
                let t = at(Stage::Started(now));
                out.go(t, say("a validate starts at {n}").n(now));
            }
            Stage::Started(start) if s.unlinked.is_none() => {
                out.go(at(Stage::Got(start)), say("its GET -> V, at {n}").n(now));
            }
            Stage::Started(_) => {}
            Stage::Got(start) => {
                let from = if self.from_start { start } else { now };
                let t = at(Stage::Held(from + self.life));
                out.go(t, say("inserted in L1 at {n}").n(now));
            }
            Stage::Held(until) if now < until => {
                let late = s.unlinked.is_some_and(|at| now > at + self.life);
                out.go(*s, say("a validate hits L1 at {n}: VALID").n(now))
                    .breaks(broken(P, late))
                    .reaches(SEEN);
            }
            Stage::Held(_) => {}
        }
        if s.unlinked.is_none() {
            let t = State {
                unlinked: Some(now),
                ..*s
            };
            out.go(t, say("UNLINK, PROPAGATED at {n}").n(now));
        }
    }
}
