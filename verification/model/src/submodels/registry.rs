//! The registry of caches: nodes may use different caches (another Redis, database number,
//! namespace or entry format). Each registers in Postgres which cache it uses and for how long, and
//! a revocation is `Propagated` only if every active registration names the cache whose UNLINK was
//! acknowledged.
//!
//! One node moves between two caches, loses Postgres at any moment, and shuts down. One revoker
//! uses cache A. Therefore only the entry in cache B is modelled, which any process fills. Time
//! passes in ticks. An entry is served for one tick.

use super::{P, SEEN, SEEN_TOO, broken, letter};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// A third mark.
const DISAGREED: u32 = 4;

/// For how long an entry is served, and a node without Postgres continues to serve.
const AT_MOST: u8 = 1;

/// A rule that a mutant drops. Its run describes it.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    NotRead,
    ReadBeforeCommit,
    NoJournalRead,
    EarlierJournalRead,
    ShortRegistration,
    CountsFromReply,
    CountsFromEntry,
    LateRefresh,
    UnregisteredCache,
    OneRow,
    KeepsOldCache,
    LeavesEarly,
    Unregistered,
}

/// The registry of caches.
struct Registry {
    mistake: Mistake,
    ticks: u8,
}

/// An INSERT or UPDATE of a registration in the network.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Message {
    Sent { at: u8 },
    Executed { at: u8, until: u8 },
    Committed { at: u8 },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Registration {
    cache: u8,
    /// The row in Postgres.
    until: Option<u8>,
    message: Option<Message>,
}

/// A registration that was acknowledged, and until when the node serves by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Acknowledged {
    registration: usize,
    deadline: u8,
}

/// A journal read in progress.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Reading {
    sees_revocation: bool,
    /// It began after the registration was acknowledged.
    follows: bool,
}

#[derive(Clone, Copy, Hash, Default)]
struct Node {
    registrations: [Option<Registration>; 2],
    /// The registration that the node waits for or serves by.
    current: Option<usize>,
    /// Acknowledged, but no journal read has followed.
    waits: Option<Acknowledged>,
    serves: Option<Acknowledged>,
    reading: Option<Reading>,
    /// The revocation is in the changed-set.
    knows: bool,
}

impl Node {
    /// Records that the journal read in progress began before the latest acknowledgement.
    fn forget_reading(&mut self) {
        self.reading = self.reading.map(|reading| Reading { follows: false, ..reading });
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Revoker {
    #[default]
    Begun,
    Committed,
    Propagated,
    /// It returned `Committed`, which promises nothing here.
    Over,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    now: u8,
    /// When the entry in cache B was read.
    copy: Option<u8>,
    node: Node,
    revoker: Revoker,
    /// The revoker has read whether an active registration names cache B.
    names_other: Option<bool>,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "R1")],
        &[
            (SEEN, "a hit"),
            (SEEN_TOO, "Propagated"),
            (DISAGREED, "Committed, because the registrations disagree"),
        ],
    );
    let run =
        |name, about, mistake, ticks| Run::new(name, about, NAMES, Registry { mistake, ticks });
    let mutant = |name, about, mistake| run(name, about, mistake, 2).breaks(P);
    let moves = "a node moves to another cache, loses Postgres, shuts down";
    vec![
        run("P1", moves, Mistake::None, 2).holds(P).reaches(SEEN | SEEN_TOO | DISAGREED),
        run("P1a", "the same, for longer", Mistake::None, 3)
            .holds(P)
            .reaches(SEEN | SEEN_TOO | DISAGREED)
            .slow(),
        mutant("P1b", "the registrations are not read", Mistake::NotRead),
        mutant("P2", "they are read before the COMMIT", Mistake::ReadBeforeCommit),
        mutant("P3", "a node serves without a journal read in between", Mistake::NoJournalRead),
        mutant("P3b", "it serves after one that had begun before", Mistake::EarlierJournalRead),
        mutant("P4", "a registration ends before its node stops", Mistake::ShortRegistration),
        mutant("P4b", "the node counts from the acknowledgement", Mistake::CountsFromReply),
        mutant("P4c", "it counts only the entry's age", Mistake::CountsFromEntry),
        mutant("P4d", "a late refresh extends the node's time", Mistake::LateRefresh),
        mutant("P5", "another cache without a new registration", Mistake::UnregisteredCache),
        mutant("P5b", "one row for each node, which a late statement overwrites", Mistake::OneRow),
        mutant("P5c", "the same, and the old cache serves meanwhile", Mistake::KeepsOldCache),
        mutant("P6", "a node removes its row before it stops serving", Mistake::LeavesEarly),
        mutant("P7", "a near cache serves without a registration", Mistake::Unregistered),
    ]
}

impl Model for Registry {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        if s.revoker == Revoker::Over || s.node.knows {
            return;
        }
        if s.now < self.ticks {
            let mut t = *s;
            t.now += 1;
            out.go(t, ("tick {n}", t.now));
        }
        fill(s, out);
        self.register(s, out);
        for i in 0..2 {
            self.deliver(s, i, out);
        }
        self.read_journal(s, out);
        self.shut_down(s, out);
        self.revoke(s, out);
        self.hit(s, out);
    }
}

/// Lets a process read Postgres under a lease, and fill cache B.
fn fill(s: &State, out: &mut Steps<State>) {
    if s.revoker == Revoker::Begun {
        let t = State { copy: Some(s.now), ..*s };
        out.go(t, "cache B: a read returns valid, and its fill");
    }
}

impl Registry {
    fn register(&self, s: &State, out: &mut Steps<State>) {
        let node = &s.node;
        if let Some(next) = node.registrations.iter().position(Option::is_none) {
            for cache in 0..2 {
                let mut t = *s;
                t.node.registrations[next] = Some(Registration {
                    cache,
                    until: None,
                    message: Some(Message::Sent { at: s.now }),
                });
                t.node.current = Some(next);
                t.node.waits = None;
                t.node.forget_reading();
                if self.mistake != Mistake::KeepsOldCache {
                    t.node.serves = None;
                }
                out.go(t, ("the node sends a registration for cache {s}", letter(cache.into())));
            }
        }
        let Some(current) = node.current else {
            return;
        };
        let Some(registration) = node.registrations[current] else {
            return;
        };
        if registration.message.is_none() && registration.until.is_some() {
            let mut t = *s;
            t.node.registrations[current] =
                Some(Registration { message: Some(Message::Sent { at: s.now }), ..registration });
            out.go(t, "the node sends a refresh");
        }
    }

    /// Executes, commits and acknowledges what was sent, at any time.
    fn deliver(&self, s: &State, i: usize, out: &mut Steps<State>) {
        let Some(registration) = s.node.registrations[i] else {
            return;
        };
        let mut t = *s;
        let here = |text| (text, letter(registration.cache.into()));
        let set = |t: &mut State, until, message| {
            t.node.registrations[i] = Some(Registration { until, message, ..registration });
        };
        match registration.message {
            None => {}
            Some(Message::Sent { at }) => {
                let short = u8::from(self.mistake == Mistake::ShortRegistration);
                let until = s.now + AT_MOST - short;
                set(&mut t, registration.until, Some(Message::Executed { at, until }));
                out.go(t, here("the registration for {s} is executed"));
            }
            Some(Message::Executed { at, until }) => {
                set(&mut t, Some(until), Some(Message::Committed { at }));
                if matches!(self.mistake, Mistake::OneRow | Mistake::KeepsOldCache)
                    && let Some(other) = &mut t.node.registrations[1 - i]
                {
                    other.until = None;
                }
                out.go(t, here("the registration for {s}: COMMIT"));
            }
            Some(Message::Committed { at }) => {
                set(&mut t, registration.until, None);
                out.go(t, here("the registration's acknowledgement is lost"));
                if s.node.current == Some(i) {
                    self.acknowledge(&mut t, i, at);
                    out.go(t, here("the registration for {s} is acknowledged"));
                }
            }
        }
    }

    fn acknowledge(&self, t: &mut State, registration: usize, sent: u8) {
        let from = if self.mistake == Mistake::CountsFromReply { t.now } else { sent };
        let new = Acknowledged { registration, deadline: from + AT_MOST };
        let is_extended = |by: Acknowledged| {
            let is_in_time = t.now <= by.deadline || self.mistake == Mistake::LateRefresh;
            by.registration == registration && is_in_time
        };
        if t.node.serves.is_some_and(is_extended) || self.mistake == Mistake::NoJournalRead {
            t.node.serves = Some(new);
            return;
        }
        if !t.node.waits.is_some_and(is_extended) {
            t.node.forget_reading();
        }
        (t.node.serves, t.node.waits) = (None, Some(new));
    }

    fn read_journal(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        let Some(reading) = s.node.reading else {
            t.node.reading = Some(Reading {
                sees_revocation: s.revoker != Revoker::Begun,
                follows: s.node.waits.is_some(),
            });
            out.go(t, "the node begins to read the journal");
            return;
        };
        t.node.reading = None;
        t.node.knows = reading.sees_revocation;
        let follows = reading.follows || self.mistake == Mistake::EarlierJournalRead;
        if let Some(waits) = s.node.waits.filter(|_| follows) {
            (t.node.serves, t.node.waits) = (Some(waits), None);
        }
        out.go(t, "the node has read the journal");
    }

    fn shut_down(&self, s: &State, out: &mut Steps<State>) {
        let Some(current) = s.node.current else {
            return;
        };
        let Some(registration) = s.node.registrations[current] else {
            return;
        };
        if registration.message.is_some() {
            return;
        }
        let mut t = *s;
        if self.mistake != Mistake::LeavesEarly {
            t.node.serves = None;
        }
        (t.node.current, t.node.waits) = (None, None);
        t.node.registrations[current] = Some(Registration { until: None, ..registration });
        out.go(t, "the node deregisters");
    }

    fn revoke(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        let has_committed = s.revoker != Revoker::Begun;
        if s.names_other.is_none() && (has_committed || self.mistake == Mistake::ReadBeforeCommit) {
            let is_other = |registration: &Registration| {
                let is_active = registration.until.is_some_and(|until| s.now <= until);
                is_active && registration.cache == 1 && self.mistake != Mistake::NotRead
            };
            let mut all = s.node.registrations.iter().flatten();
            t.names_other = Some(all.any(is_other));
            out.go(t, "the revoker reads the registry");
        }
        let mut t = *s;
        match (s.revoker, s.names_other) {
            (Revoker::Begun, _) => {
                t.revoker = Revoker::Committed;
                out.go(t, "the revoker: COMMIT");
            }
            (Revoker::Committed, Some(false)) => {
                t.revoker = Revoker::Propagated;
                out.go(t, "the revoker: UNLINK on cache A, returns PROPAGATED").reaches(SEEN_TOO);
            }
            (Revoker::Committed, Some(true)) => {
                t.revoker = Revoker::Over;
                out.go(t, "the revoker: UNLINK on cache A, returns COMMITTED").reaches(DISAGREED);
            }
            (Revoker::Committed, None) | (Revoker::Propagated | Revoker::Over, _) => {}
        }
    }

    fn hit(&self, s: &State, out: &mut Steps<State>) {
        let Some(read_at) = s.copy else {
            return;
        };
        let is_admitted = s.node.serves.is_some_and(|serves| {
            let registered = s.node.registrations[serves.registration];
            let is_its_cache = registered.is_some_and(|registered| registered.cache == 1)
                || self.mistake == Mistake::UnregisteredCache;
            let is_in_time = s.now <= serves.deadline || self.mistake == Mistake::CountsFromEntry;
            is_its_cache && is_in_time
        }) || self.mistake == Mistake::Unregistered;
        if is_admitted && s.now <= read_at + AT_MOST {
            let seen = if s.revoker == Revoker::Begun { SEEN } else { 0 };
            out.go(*s, "the node hits the entry in cache B: VALID")
                .breaks(broken(P, s.revoker == Revoker::Propagated))
                .reaches(seen);
        }
    }
}
