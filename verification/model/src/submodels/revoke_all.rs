//! A revoke-all raises the user's epoch, and writes one journal row. Each session and each entry
//! carries an epoch, and has ended if that is below the user's. The sessions' rows are marked as
//! revoked in the background, without journal rows.
//!
//! Two sessions of one user, an entry of each, two revoke-alls in sequence, and a node that reads
//! the journal. The first revoke-all spares the second session.

use super::{P, Q, SEEN, SEEN_TOO, broken, letter};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// A third promise.
const SPARED: u32 = 4;

/// A rule that a mutant drops. Its run describes it.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    NoEpochInEntry,
    EpochReadLater,
    LiftedLater,
    RejectsItsOwn,
    RowAfterPages,
    UnlinksByRow,
}

/// A revoke-all of one user.
struct RevokeAll {
    mistake: Mistake,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Stage {
    #[default]
    Idle,
    Raised,
    Committed,
    Propagated,
    /// An UNLINK was lost, and `Committed` was returned.
    Unacknowledged,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Value {
    #[default]
    Nothing,
    /// A lease whose holder has read Postgres: the session's epoch.
    Read(u8),
    Entry(u8),
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    stages: [Stage; 2],
    epoch: u8,
    /// The journal's row. It ends the sessions below this epoch.
    journal: u8,
    /// By session.
    epochs: [u8; 2],
    ended: [bool; 2],
    values: [Value; 2],
    /// A journal read in progress: the epoch that it sees, and how many revoke-alls had committed.
    reading: Option<(u8, u8)>,
    /// What the node knows: the epoch, and how many revoke-alls had committed when its last read
    /// began.
    known: u8,
    read_after: u8,
}

impl State {
    fn committed(&self) -> u8 {
        let all = self.stages.iter();
        all.map(|stage| u8::from(*stage >= Stage::Committed)).sum()
    }

    fn is_valid(&self, session: usize) -> bool {
        !self.ended[session] && self.epochs[session] >= self.epoch
    }

    /// Returns whether this revoke-all ended the session.
    fn is_ended_by(&self, session: usize, all: usize) -> bool {
        self.stages[all] >= Stage::Committed && (session == 0 || all == 1)
    }
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "R1"), (Q, "R1Δ"), (SPARED, "the spared session stays")],
        &[(SEEN, "a hit of the spared session"), (SEEN_TOO, "Propagated")],
    );
    let run = |name, about, mistake| Run::new(name, about, NAMES, RevokeAll { mistake });
    vec![
        run("U1", "one journal row, session rows end in the background", Mistake::None)
            .holds(P | Q | SPARED)
            .reaches(SEEN | SEEN_TOO),
        run("U2", "entries carry no epoch", Mistake::NoEpochInEntry).breaks(Q),
        run("U2b", "a second statement reads their epoch", Mistake::EpochReadLater).breaks(Q),
        run("U3", "a second transaction spares the session", Mistake::LiftedLater).breaks(SPARED),
        run("U3b", "entries of the row's own epoch are rejected too", Mistake::RejectsItsOwn)
            .breaks(SPARED),
        run("U4", "the journal row comes after the session rows", Mistake::RowAfterPages).breaks(Q),
        run("U5", "UNLINK for rows that have not ended yet", Mistake::UnlinksByRow).breaks(P),
    ]
}

impl Model for RevokeAll {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        for all in 0..2 {
            if all == 0 || s.stages[0] >= Stage::Propagated {
                self.revoke_all(s, all, out);
            }
        }
        self.in_the_background(s, out);
        read_journal(s, out);
        for session in 0..2 {
            self.validate(s, session, out);
        }
    }
}

impl RevokeAll {
    fn revoke_all(&self, s: &State, all: usize, out: &mut Steps<State>) {
        let here = |text| (text, if all == 0 { 1 } else { 2 });
        let mut t = *s;
        match s.stages[all] {
            Stage::Idle => {
                t.stages[all] = Stage::Raised;
                out.go(t, here("revoke-all {n}: raises the epoch"));
            }
            Stage::Raised => {
                t.stages[all] = Stage::Committed;
                t.epoch += 1;
                if all == 0 && self.mistake != Mistake::LiftedLater {
                    t.epochs[1] = t.epoch;
                }
                if self.mistake != Mistake::RowAfterPages {
                    t.journal = t.epoch;
                }
                out.go(t, here("revoke-all {n}: COMMIT"));
            }
            Stage::Committed => {
                for session in 0..2 {
                    let is_over = s.epochs[session] < s.epoch;
                    let is_found = self.mistake != Mistake::UnlinksByRow || !s.ended[session];
                    if is_over && is_found {
                        t.values[session] = Value::Nothing;
                    }
                }
                t.stages[all] = Stage::Propagated;
                out.go(t, here("revoke-all {n}: UNLINKs, returns PROPAGATED")).reaches(SEEN_TOO);
                let mut t = *s;
                t.stages[all] = Stage::Unacknowledged;
                out.go(t, here("revoke-all {n}: UNLINK lost, returns COMMITTED"));
            }
            Stage::Propagated | Stage::Unacknowledged => {}
        }
    }

    fn in_the_background(&self, s: &State, out: &mut Steps<State>) {
        for session in 0..2 {
            if s.epochs[session] < s.epoch && !s.ended[session] {
                let mut t = *s;
                if self.mistake == Mistake::LiftedLater && session == 1 && s.epoch == 1 {
                    t.epochs[1] = 1;
                    out.go(t, "the spared session is lifted into the epoch");
                    continue;
                }
                t.ended[session] = true;
                out.go(t, ("in the background: the row of session {s} is ended", letter(session)));
            }
        }
        let mut sessions = (0..2).filter(|session| s.epochs[*session] < s.epoch);
        if s.journal < s.epoch && sessions.all(|session| s.ended[session]) {
            let t = State { journal: s.epoch, ..*s };
            out.go(t, "the journal's row is written");
        }
    }

    fn rejects(&self, s: &State, epoch: u8) -> bool {
        match self.mistake {
            Mistake::NoEpochInEntry => false,
            Mistake::RejectsItsOwn => epoch <= s.known && s.known > 0,
            _ => epoch < s.known,
        }
    }

    fn validate(&self, s: &State, session: usize, out: &mut Steps<State>) {
        let here = |text| (text, letter(session));
        let mut t = *s;
        let mut leases = || {
            let mut t = *s;
            if s.is_valid(session) {
                t.values[session] = Value::Read(s.epochs[session]);
                out.go(t, here("session {s}: a lease, and a read that returns valid"));
            } else if session == 1 && s.committed() == 1 {
                t.values[session] = Value::Nothing;
                out.go(t, here("session {s} was spared, and a read returns INVALID"))
                    .breaks(SPARED);
            }
        };
        match s.values[session] {
            Value::Nothing => leases(),
            Value::Read(epoch) => {
                t.values[session] = Value::Entry(if self.mistake == Mistake::EpochReadLater {
                    s.epoch
                } else {
                    epoch
                });
                out.go(t, here("session {s}: the fill"));
            }
            Value::Entry(epoch) if self.rejects(s, epoch) => {
                leases();
                if s.is_valid(session) && epoch == s.epochs[session] {
                    out.go(t, here("session {s}: the node rejects a fresh entry")).breaks(SPARED);
                }
            }
            Value::Entry(_) => {
                let by = |all: &usize| s.is_ended_by(session, *all);
                let is_propagated = (0..2).filter(by).any(|all| s.stages[all] == Stage::Propagated);
                let ended_first = if session == 0 { 1 } else { 2 };
                let is_late = s.read_after >= ended_first;
                let seen = if s.committed() == 1 && session == 1 { SEEN } else { 0 };
                out.go(t, here("session {s}: a hit, VALID"))
                    .breaks(broken(P, is_propagated))
                    .breaks(broken(Q, is_late))
                    .reaches(seen);
            }
        }
    }
}

fn read_journal(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    let Some((epoch, committed)) = s.reading else {
        t.reading = Some((s.journal, s.committed()));
        out.go(t, "the node begins to read the journal");
        return;
    };
    t.reading = None;
    t.known = s.known.max(epoch);
    t.read_after = committed;
    out.go(t, "the node has read the journal");
}
