//! A revoke-all against a login in progress (R13). A login records its moment when it begins: the
//! life and the snapshot. `create` locks the user's row FOR SHARE. It refuses a moment of another
//! life, and an epoch that was raised by a transaction that the moment does not show. A revoke-all
//! raises the epoch in a short transaction, and after its COMMIT reads the sessions to UNLINK.
//!
//! A raise counts if it was made in this *run* (the server's start time), or if its transaction was
//! open when the life began: it was prepared in an earlier run.
//!
//! One login, two revoke-alls, a user who may be new, and a crash of Postgres, after which
//! transaction ids are used again.

use super::{P, Q, SEEN, SEEN_TOO, Snapshot, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// The largest transaction id, except those of the revoke-alls.
const MOST: u8 = 2;

/// A third promise: no login is refused that began in this life and after every revoke-all.
const REFUSED: u32 = 4;

/// A rule that a mutant drops. Its run describes it.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    NothingRecorded,
    NextId,
    AnyLife,
    ForeignRaises,
    ForgetsPrepared,
    NoLock,
    RecordsAgain,
    DigestsBefore,
    RemovesAnyUser,
}

/// How a second life may begin.
#[derive(Clone, Copy, PartialEq)]
enum Second {
    Never,
    /// After a crash, which loses the ids that were not flushed.
    Crash,
    /// After a crash and a restart, which a prepared revoke-all outlives.
    Prepared,
    /// After a restore from a dump. Ids start anywhere.
    Dump,
}

/// A login beside two revoke-alls.
struct Login {
    mistake: Mistake,
    /// There is no row of the user yet.
    new_user: bool,
    second: Second,
    /// Rows of users without sessions are removed.
    removal: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Stage {
    #[default]
    Idle,
    /// A mutant reads the sessions to UNLINK before the epoch is raised.
    ReadDigests,
    Raised,
    Committed,
    Returned,
    /// D has passed since.
    Late,
}

#[derive(Clone, Copy, Hash, Default)]
struct RevokeAll {
    stage: Stage,
    id: u8,
    /// The run in which it raised the epoch.
    run: u8,
    /// It has read the session that the login created.
    found: bool,
}

#[derive(Clone, Copy, PartialEq, Hash, Default)]
enum Step {
    #[default]
    NotBegun,
    Begun,
    /// There is no row of the user.
    Unknown,
    Locked,
    Inserted,
    Created,
    Refused,
}

#[derive(Clone, Copy, Hash, Default)]
struct User {
    epoch: u8,
    /// The transaction and the run of the last raise.
    raised: Option<(u8, u8)>,
}

impl RevokeAll {
    /// Returns its transaction while that is open.
    fn open(&self) -> Option<u8> {
        (self.stage == Stage::Raised).then_some(self.id)
    }
}

/// The life and the snapshot of a login.
#[derive(Clone, Copy, Hash, Default)]
struct Moment {
    life: u8,
    snapshot: Snapshot,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    life: Option<u8>,
    lives: u8,
    run: u8,
    /// The revoke-alls that were open when the life began.
    begun_open: [Option<u8>; 2],
    user: Option<User>,
    all: [RevokeAll; 2],
    login: Step,
    /// The revoke-alls that had not committed when the login began.
    before: [bool; 2],
    moment: Moment,
    /// The session's epoch.
    epoch: u8,
    leased: bool,
    entry: bool,
    next_id: u8,
    /// Lower ids are not used again, because a later one was flushed.
    flushed: u8,
    crashed: bool,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "R13 at once"), (Q, "R13 after D"), (REFUSED, "no login refused without cause")],
        &[(SEEN, "a hit before"), (SEEN_TOO, "a login refused")],
    );
    const KNOWN: Login =
        Login { mistake: Mistake::None, new_user: false, second: Second::Never, removal: false };
    const NEW: Login = Login { new_user: true, ..KNOWN };
    const CRASH: Login = Login { second: Second::Crash, ..KNOWN };
    const DUMP: Login = Login { second: Second::Dump, ..KNOWN };
    const PREPARED: Login = Login { second: Second::Prepared, ..KNOWN };
    const REMOVAL: Login = Login { removal: true, ..PREPARED };
    let holds = |name, about, model| {
        let run = Run::new(name, about, NAMES, model);
        run.holds(P | Q | REFUSED).reaches(SEEN | SEEN_TOO)
    };
    let mutant = |name, about, mistake, model| {
        Run::new(name, about, NAMES, Login { mistake, ..model }).breaks(P)
    };
    let foreign = Login { mistake: Mistake::ForeignRaises, ..DUMP };
    vec![
        holds("L1", "two revoke-alls", KNOWN),
        holds("L1b", "the same, a user who never logged in before", NEW),
        mutant("L1c", "nothing is recorded", Mistake::NothingRecorded, KNOWN),
        mutant("L2", "only the next transaction id is recorded", Mistake::NextId, KNOWN),
        mutant("L3", "a new user's moment is recorded again", Mistake::RecordsAgain, NEW),
        mutant("L4", "digests are read before the raise", Mistake::DigestsBefore, KNOWN),
        holds("L5", "Postgres crashes and uses ids again", CRASH),
        holds("L5b", "the same, a new user", Login { second: Second::Crash, ..NEW }),
        mutant("L5c", "a moment of another life is compared", Mistake::AnyLife, CRASH),
        holds("L5d", "a prepared revoke-all commits after a restart", PREPARED),
        mutant("L5g", "the same, its raise does not count", Mistake::ForgetsPrepared, PREPARED),
        holds("L5e", "a dump is restored elsewhere, with its own ids", DUMP),
        Run::new("L5f", "the same, a raise of another server counts", NAMES, foreign)
            .breaks(REFUSED),
        holds("L6", "the row of a user without sessions is removed", REMOVAL),
        mutant("L6b", "the same, also if raised in this run", Mistake::RemovesAnyUser, REMOVAL),
        mutant("L6c", "as L6, create does not lock the row", Mistake::NoLock, REMOVAL),
    ]
}

impl Model for Login {
    type State = State;

    fn start(&self) -> State {
        State {
            next_id: 1,
            flushed: 1,
            user: (!self.new_user).then(User::default),
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        if s.life.is_none() {
            let mut t = *s;
            t.lives += 1;
            t.life = Some(t.lives);
            t.begun_open = s.all.map(|one| one.open());
            out.go(t, ("life {n} begins", t.lives));
        }
        if let Some(life) = s.life {
            self.log_in(s, life, out);
        }
        for i in 0..2 {
            self.revoke_all(s, i, out);
        }
        self.remove_user(s, out);
        validate(s, out);
        if self.second != Second::Never && !s.crashed {
            self.lose_ids(s, out);
        }
    }
}

/// Returns whether a revoke-all that has not committed holds the user's row.
fn row_is_held(s: &State) -> bool {
    s.all.iter().any(|one| one.stage == Stage::Raised)
}

impl Login {
    fn record(&self, t: &mut State, life: u8) {
        let records_open = self.mistake != Mistake::NextId;
        let open = |one: RevokeAll| one.open().filter(|_| records_open);
        let snapshot = Snapshot { xmax: t.next_id, open: t.all.map(open) };
        t.moment = Moment { life, snapshot };
    }

    fn log_in(&self, s: &State, life: u8, out: &mut Steps<State>) {
        let mut t = *s;
        let locks = self.mistake != Mistake::NoLock;
        match s.login {
            Step::NotBegun => {
                t.login = Step::Begun;
                t.before = s.all.map(|one| one.stage < Stage::Committed);
                self.record(&mut t, life);
                out.go(t, "the login begins");
            }
            Step::Begun if !(locks && row_is_held(s) && s.user.is_some()) => {
                let Some(user) = s.user else {
                    t.login = Step::Unknown;
                    out.go(t, "create: the user has no row");
                    return;
                };
                t.epoch = user.epoch;
                if self.refuses(s, life, user) {
                    t.login = Step::Refused;
                    let needless = s.moment.life == life
                        && (s.all.iter().zip(s.before))
                            .all(|(one, before)| one.stage < Stage::Committed || !before);
                    out.go(t, "create: refused")
                        .breaks(broken(REFUSED, needless))
                        .reaches(SEEN_TOO);
                } else {
                    t.login = Step::Locked;
                    out.go(t, "create reads the user's row");
                }
            }
            // INSERT … ON CONFLICT DO NOTHING waits for a revoke-all that inserts the same row.
            Step::Unknown if !row_is_held(s) => {
                t.user = s.user.or(Some(User::default()));
                t.login = Step::Begun;
                if self.mistake == Mistake::RecordsAgain {
                    self.record(&mut t, life);
                }
                out.go(t, "create adds the user's row");
            }
            Step::Locked => {
                t.login = Step::Inserted;
                out.go(t, "create INSERTs the session");
            }
            Step::Inserted => {
                t.login = Step::Created;
                out.go(t, "create COMMITs, Ok");
            }
            Step::Begun | Step::Unknown | Step::Created | Step::Refused => {}
        }
    }

    fn refuses(&self, s: &State, life: u8, user: User) -> bool {
        if self.mistake == Mistake::NothingRecorded {
            return false;
        }
        if s.moment.life != life && self.mistake != Mistake::AnyLife {
            return true;
        }
        user.raised.is_some_and(|raised| {
            self.is_of_this_server(s, raised) && !s.moment.snapshot.sees(raised.0)
        })
    }

    /// Returns whether the id of a raise can be compared with the ids of this server.
    fn is_of_this_server(&self, s: &State, (by, run): (u8, u8)) -> bool {
        match self.mistake {
            Mistake::ForeignRaises => true,
            Mistake::ForgetsPrepared => run == s.run,
            _ => run == s.run || s.begun_open.contains(&Some(by)),
        }
    }

    fn revoke_all(&self, s: &State, i: u8, out: &mut Steps<State>) {
        let at = usize::from(i);
        let is_shared =
            self.mistake != Mistake::NoLock && matches!(s.login, Step::Locked | Step::Inserted);
        let finds = s.login == Step::Created;
        let here = |text| (text, i + 1);
        let mut t = *s;
        match s.all[at].stage {
            Stage::Idle if self.mistake == Mistake::DigestsBefore => {
                t.all[at].stage = Stage::ReadDigests;
                t.all[at].found = finds;
                out.go(t, here("revoke-all {n}: reads the sessions to UNLINK"));
            }
            Stage::Idle | Stage::ReadDigests => {
                if is_shared || row_is_held(s) {
                    return;
                }
                t.all[at] =
                    RevokeAll { stage: Stage::Raised, id: s.next_id, run: s.run, ..s.all[at] };
                t.next_id += 1;
                out.go(t, here("revoke-all {n}: raises the user's epoch"));
            }
            Stage::Raised => {
                t.all[at].stage = Stage::Committed;
                t.user = Some(User {
                    epoch: s.user.map_or(0, |user| user.epoch) + 1,
                    raised: Some((s.all[at].id, s.all[at].run)),
                });
                t.flushed = s.flushed.max(s.all[at].id + 1);
                out.go(t, here("revoke-all {n}: COMMIT"));
            }
            Stage::Committed => {
                t.all[at].stage = Stage::Returned;
                if s.all[at].found || finds && self.mistake != Mistake::DigestsBefore {
                    (t.leased, t.entry) = (false, false);
                }
                out.go(t, here("revoke-all {n}: UNLINKs the sessions it read, PROPAGATED"));
            }
            Stage::Returned => {
                t.all[at].stage = Stage::Late;
                out.go(t, here("D has passed since revoke-all {n}"));
            }
            Stage::Late => {}
        }
    }

    /// Removes the user's row, unless the user has a session or a transaction holds the row.
    fn remove_user(&self, s: &State, out: &mut Steps<State>) {
        let has_session = match s.login {
            Step::Locked | Step::Inserted => self.mistake != Mistake::NoLock,
            Step::Created => true,
            Step::NotBegun | Step::Begun | Step::Unknown | Step::Refused => false,
        };
        let Some(user) = s.user.filter(|_| self.removal && !has_session && !row_is_held(s)) else {
            return;
        };
        let is_raised_now = (user.raised).is_some_and(|raised| self.is_of_this_server(s, raised));
        if s.life.is_some() && (!is_raised_now || self.mistake == Mistake::RemovesAnyUser) {
            let t = State { user: None, ..*s };
            out.go(t, "the user's row is removed");
        }
    }

    /// Begins a second life. What was open is rolled back, and begins anew.
    fn lose_ids(&self, s: &State, out: &mut Steps<State>) {
        if s.next_id <= MOST {
            let mut t = *s;
            t.next_id += 1;
            out.go(t, ("transaction {n} touches a session: COMMIT, not flushed", s.next_id));
        }
        let mut t = *s;
        t.crashed = true;
        t.life = None;
        if self.second != Second::Crash {
            t.run += 1;
        }
        for one in &mut t.all {
            let is_prepared = self.second == Second::Prepared && one.stage == Stage::Raised;
            if is_prepared {
                t.flushed = t.flushed.max(one.id + 1);
            } else if one.stage < Stage::Committed {
                *one = RevokeAll::default();
            }
        }
        if matches!(s.login, Step::Locked | Step::Inserted) {
            t.login = Step::Begun;
        }
        let (least, label) = match self.second {
            Second::Dump => (1, "a dump is restored, the next transaction id is {n}"),
            Second::Never | Second::Crash | Second::Prepared => {
                (t.flushed, "Postgres crashes, its next transaction id is {n}")
            }
        };
        for next_id in least..=s.next_id {
            t.next_id = next_id;
            out.go(t, (label, next_id)).fault();
        }
    }
}

fn validate(s: &State, out: &mut Steps<State>) {
    let current = s.user.map_or(0, |user| user.epoch);
    let is_valid = s.login == Step::Created && s.epoch >= current;
    let mut t = *s;
    if is_valid && !s.leased && !s.entry {
        t.leased = true;
        out.go(t, "a validation has the lease, its snapshot shows the session as valid");
    } else if s.leased {
        (t.leased, t.entry) = (false, true);
        out.go(t, "its fill");
    }
    if s.entry && s.all.iter().all(|one| one.stage < Stage::Committed) {
        out.go(*s, "a hit before revoke-all").reaches(SEEN);
    }
    for (one, before) in s.all.iter().zip(s.before) {
        if one.stage < Stage::Returned || !before {
            continue;
        }
        if is_valid {
            out.go(*s, "a read of Postgres: VALID, although the login began before the COMMIT")
                .breaks(P | Q);
        }
        let is_late = one.stage == Stage::Late;
        let is_known = is_late && s.epoch < current;
        if s.entry && !is_known {
            out.go(*s, "a hit: VALID, although the login began before the COMMIT")
                .breaks(P | broken(Q, is_late));
        }
    }
}
