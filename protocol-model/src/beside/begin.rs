//! What a starting node must load to know what is not to be believed. Time in ticks.

use super::{P, SEEN, broken};
use crate::explore::{Model, Steps, say};

/// How far back a start loads.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Load {
    /// Rows written at most so many ticks ago (`now()` is the start of their transaction).
    Window(u8),
    /// Nothing: `V` carries its read's xmin, and is believed if that is not older than the start.
    ByPosition,
}

/// A node starts while a revocation's UNLINK is lost.
pub(crate) struct Begin {
    pub(crate) ttl: u8,
    pub(crate) lease: u8,
    /// The longest transaction.
    pub(crate) longest: u8,
    pub(crate) load: Load,
}

/// Ticks; 0 is never.
#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    now: u8,
    begun: u8,
    committed: u8,
    leased: u8,
    read: bool,
    expires: u8,
    started: u8,
    /// The started node knows of the revocation.
    knows: bool,
    /// The revocation had ended when it started.
    after: bool,
}

impl Model for Begin {
    type State = State;

    fn start(&self) -> State {
        State {
            now: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        let now = s.now;
        let open = s.begun != 0 && s.committed == 0;
        if now < 14 && (!open || now < s.begun + self.longest) {
            out.go(State { now: now + 1, ..*s }, say("tick {n}").n(now + 1));
        }
        if s.begun == 0 {
            let t = State { begun: now, ..*s };
            out.go(t, say("the revoking transaction begins at {n}").n(now));
        }
        if open {
            let t = State {
                committed: now,
                knows: s.knows || s.started != 0,
                ..*s
            };
            out.go(t, say("it COMMITs at {n}; UNLINK lost").n(now));
        }
        self.fill(s, out);
        if s.started == 0 {
            let loaded = match self.load {
                Load::Window(window) => s.committed != 0 && s.begun + window > now,
                Load::ByPosition => false,
            };
            let t = State {
                started: now,
                after: s.committed != 0,
                knows: loaded,
                ..*s
            };
            out.go(t, say("N2 starts and loads the journal, at {n}").n(now));
        } else if now < s.expires {
            // V was read before the revocation ended, so its xmin is not above that transaction's.
            let old = self.load == Load::ByPosition && s.after;
            if s.committed == 0 {
                let label = say("N2: hit before the revocation, at {n}");
                out.go(*s, label.n(now)).reaches(SEEN);
            } else if !s.knows && !old {
                out.go(*s, say("N2: hit, answers VALID at {n}").n(now))
                    .breaks(broken(P, true));
            }
        }
    }
}

impl Begin {
    fn fill(&self, s: &State, out: &mut Steps<State>) {
        let now = s.now;
        if s.leased == 0 {
            let t = State { leased: now, ..*s };
            out.go(t, say("N1 has the lease at {n}").n(now));
        } else if !s.read && s.committed == 0 {
            let t = State { read: true, ..*s };
            out.go(t, say("N1's snapshot says valid, at {n}").n(now));
        } else if s.read && s.expires == 0 && now < s.leased + self.lease {
            let t = State {
                expires: now + self.ttl,
                ..*s
            };
            out.go(t, say("N1's fill: V, at {n}").n(now));
        }
    }
}
