//! revoke-all against a login under way (R13). A login notes where Postgres stands when it begins; `create`
//! locks the user's row FOR SHARE, refuses if the epoch was raised by a transaction that is not visible in
//! what was noted, or not before the login began by Postgres' clock, and inserts; a revoke-all raises the
//! epoch first and revokes rows in a second statement.
//!
//! One login, two revoke-alls, a user who may never have logged in before, a crash of Postgres, after which
//! transaction ids are handed out again. Time in ticks, by Postgres' clock.

use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Label, Model, Steps, say};

/// No transaction id is larger, but for those of the revoke-alls.
const MOST: u8 = 2;
/// The last tick.
const END: u8 = 2;

/// No login is refused that began after every revoke-all.
pub(crate) const REFUSED: u32 = 4;

/// What `create` goes by.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Notes {
    /// The epoch as `create` finds it: nothing is noted.
    Nothing,
    /// The user's epoch when the login began.
    Epoch,
    /// Postgres' snapshot when the login began: which revoke-alls had committed.
    Snapshot,
    /// The snapshot and Postgres' clock: a revoke-all at that moment or later is not seen, whatever its
    /// transaction id. As it is built.
    SnapshotAndClock,
    /// The same, but one at that very moment counts as seen.
    SnapshotAndLater,
    /// The clock alone.
    Clock,
    /// The next transaction id when the login began: which revoke-alls had begun.
    NextId,
}

/// Logging in while all sessions are revoked.
pub(crate) struct Login {
    pub(crate) notes: Notes,
    /// Every read of Postgres compares the session's epoch with the user's.
    pub(crate) compares: bool,
    /// The epoch is raised first (else: the rows are revoked first).
    pub(crate) epoch_first: bool,
    /// `create` takes the user's row FOR SHARE.
    pub(crate) locks: bool,
    /// The journal tells of the user too, and entries carry their epoch.
    pub(crate) epoch_in_journal: bool,
    /// There is no row of the user yet.
    pub(crate) new_user: bool,
    /// Having added that row, `create` notes anew where Postgres stands.
    pub(crate) notes_again: bool,
    /// Postgres may crash, once: the ids of which no log was flushed are handed out again.
    pub(crate) crash: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Stage {
    #[default]
    Idle,
    First,
    Second,
    Committed,
    Answered,
    /// D has passed since.
    Late,
}

#[derive(Clone, Copy, Hash, Default)]
struct RevokeAll {
    stage: Stage,
    id: u8,
    /// When its transaction began: `raised_at`.
    at: u8,
    /// Its second statement saw the new session.
    saw: bool,
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
    /// By which transaction, and when that began.
    raised: Option<(u8, u8)>,
}

/// Where Postgres stands.
#[derive(Clone, Copy, Hash, Default)]
struct Snapshot {
    xmax: u8,
    /// Transactions that are not over.
    open: [Option<u8>; 2],
}

impl Snapshot {
    fn sees(&self, id: u8) -> bool {
        id < self.xmax && !self.open.contains(&Some(id))
    }
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    user: Option<User>,
    all: [RevokeAll; 2],
    login: Step,
    /// By revoke-all: it had not committed when the login began.
    before: [bool; 2],
    noted: Snapshot,
    begun_at: u8,
    noted_epoch: u8,
    epoch: u8,
    revoked: bool,
    leased: bool,
    copy: bool,
    next_id: u8,
    /// Ids before this one are not handed out again: something after them was flushed.
    flushed: u8,
    now: u8,
    crashed_at: Option<u8>,
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
        self.log_in(s, out);
        for i in 0..2 {
            self.revoke_all(s, i, out);
        }
        self.validate(s, out);
        self.postgres(s, out);
    }
}

impl Login {
    fn looks_at_the_clock(&self) -> bool {
        matches!(
            self.notes,
            Notes::SnapshotAndClock | Notes::SnapshotAndLater | Notes::Clock
        )
    }

    /// A revoke-all that has raised the epoch and not committed holds the user's row.
    fn row_is_held(&self, s: &State) -> bool {
        let from = if self.epoch_first {
            Stage::First
        } else {
            Stage::Second
        };
        let mut all = s.all.iter();
        all.any(|one| one.stage >= from && one.stage < Stage::Committed)
    }

    fn note(&self, t: &mut State) {
        let open = |one: RevokeAll| {
            let is_open = matches!(one.stage, Stage::First | Stage::Second);
            (is_open && self.notes != Notes::NextId).then_some(one.id)
        };
        t.noted = Snapshot {
            xmax: t.next_id,
            open: t.all.map(open),
        };
        t.begun_at = t.now;
        t.noted_epoch = t.user.map_or(0, |user| user.epoch);
    }

    fn log_in(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        match s.login {
            Step::NotBegun => {
                t.login = Step::Begun;
                t.before = s.all.map(|one| one.stage < Stage::Committed);
                self.note(&mut t);
                out.go(t, say("the login begins"));
            }
            Step::Begun if !(self.locks && self.row_is_held(s) && s.user.is_some()) => {
                let Some(user) = s.user else {
                    t.login = Step::Unknown;
                    out.go(t, say("create: nobody of that name is known"));
                    return;
                };
                let refused = match (self.notes, user.raised) {
                    (Notes::Epoch, _) => user.epoch != s.noted_epoch,
                    (Notes::Nothing, _) | (_, None) => false,
                    (Notes::Snapshot | Notes::NextId, Some((by, _))) => !s.noted.sees(by),
                    (Notes::SnapshotAndClock, Some((by, at))) => {
                        !s.noted.sees(by) || at >= s.begun_at
                    }
                    (Notes::SnapshotAndLater, Some((by, at))) => {
                        !s.noted.sees(by) || at > s.begun_at
                    }
                    (Notes::Clock, Some((_, at))) => at >= s.begun_at,
                };
                t.epoch = user.epoch;
                if refused {
                    t.login = Step::Refused;
                    // Within one tick nobody can tell.
                    let same_tick =
                        |one: &RevokeAll| self.looks_at_the_clock() && one.at == s.begun_at;
                    let needless = (s.all.iter().zip(s.before)).all(|(one, before)| {
                        one.stage < Stage::Committed || !before && !same_tick(one)
                    });
                    out.go(t, say("create: refused"))
                        .breaks(broken(REFUSED, needless))
                        .reaches(SEEN_TOO);
                } else {
                    t.login = Step::Locked;
                    out.go(t, say("create reads the user's row"));
                }
            }
            // INSERT … ON CONFLICT DO NOTHING waits for a revoke-all that is inserting the same row.
            Step::Unknown if !self.row_is_held(s) => {
                t.user = s.user.or(Some(User::default()));
                t.login = Step::Begun;
                if self.notes_again {
                    self.note(&mut t);
                }
                out.go(t, say("create adds the user's row"));
            }
            Step::Locked => {
                t.login = Step::Inserted;
                out.go(t, say("create INSERTs the session"));
            }
            Step::Inserted => {
                t.login = Step::Created;
                out.go(t, say("create COMMITs, Ok"));
            }
            Step::Begun | Step::Unknown | Step::Created | Step::Refused => {}
        }
    }

    fn revoke_all(&self, s: &State, i: u8, out: &mut Steps<State>) {
        let at = usize::from(i);
        let shared = self.locks && matches!(s.login, Step::Locked | Step::Inserted);
        let raises = if self.epoch_first {
            Stage::Idle
        } else {
            Stage::First
        };
        let mut t = *s;
        match s.all[at].stage {
            stage @ (Stage::Idle | Stage::First) if stage == raises => {
                if shared || self.row_is_held(s) {
                    return;
                }
                let label = say("revoke-all {n}: raises the user's epoch");
                go_on(t, at, out, label.n(i + 1));
            }
            Stage::Idle | Stage::First => {
                t.all[at].saw = s.login == Step::Created;
                let label = say(if t.all[at].saw {
                    "revoke-all {n}: revokes the rows, sees the new one"
                } else {
                    "revoke-all {n}: revokes the rows, doesn't see the new one"
                });
                go_on(t, at, out, label.n(i + 1));
            }
            Stage::Second => {
                t.all[at].stage = Stage::Committed;
                let epoch = s.user.map_or(0, |user| user.epoch) + 1;
                t.user = Some(User {
                    epoch,
                    raised: Some((s.all[at].id, s.all[at].at)),
                });
                t.flushed = s.flushed.max(s.all[at].id + 1);
                t.revoked |= s.all[at].saw;
                out.go(t, say("revoke-all {n}: COMMIT").n(i + 1));
            }
            Stage::Committed => {
                t.all[at].stage = Stage::Answered;
                if s.all[at].saw {
                    (t.leased, t.copy) = (false, false);
                }
                let label = say("revoke-all {n}: UNLINKs what it revoked, answers PROPAGATED");
                out.go(t, label.n(i + 1));
            }
            Stage::Answered => {
                t.all[at].stage = Stage::Late;
                let label = say("D has passed since revoke-all {n}");
                out.go(t, label.n(i + 1));
            }
            Stage::Late => {}
        }
    }

    fn postgres(&self, s: &State, out: &mut Steps<State>) {
        if self.looks_at_the_clock() && s.now < END {
            let mut t = *s;
            t.now += 1;
            out.go(t, say("tick {n}").n(t.now));
        }
        if !self.crash || s.crashed_at.is_some() {
            return;
        }
        if s.next_id <= MOST {
            let mut t = *s;
            t.next_id += 1;
            let label = say("transaction {n} touches some session: COMMIT, not flushed");
            out.go(t, label.n(s.next_id));
        }
        // What was open is rolled back, and begun anew.
        let mut t = *s;
        t.crashed_at = Some(s.now);
        for one in &mut t.all {
            if one.stage < Stage::Committed {
                *one = RevokeAll::default();
            }
        }
        if matches!(s.login, Step::Locked | Step::Inserted) {
            t.login = Step::Begun;
        }
        for next_id in s.flushed..=s.next_id {
            t.next_id = next_id;
            let label = say("Postgres crashes, and recovers; its next transaction id is {n}");
            out.go(t, label.n(next_id));
        }
    }

    fn validate(&self, s: &State, out: &mut Steps<State>) {
        let current = s.user.map_or(0, |user| user.epoch);
        let valid =
            s.login == Step::Created && !s.revoked && (!self.compares || s.epoch >= current);
        let mut t = *s;
        if valid && !s.leased && !s.copy {
            t.leased = true;
            out.go(t, say("a validate has the lease, its snapshot says valid"));
        } else if s.leased {
            (t.leased, t.copy) = (false, true);
            out.go(t, say("its fill: V"));
        }
        if s.copy && s.all.iter().all(|one| one.stage < Stage::Committed) {
            out.go(*s, say("a hit before revoke-all")).reaches(SEEN);
        }
        for (one, before) in s.all.iter().zip(s.before) {
            if one.stage < Stage::Answered || !before {
                continue;
            }
            if valid {
                let label = say(
                    "a validate asks Postgres: VALID, though the login began before the COMMIT",
                );
                out.go(*s, label).breaks(P | Q);
            }
            let known = one.stage == Stage::Late && (one.saw || self.epoch_in_journal);
            if s.copy && !known {
                let label =
                    say("a validate hits V: VALID, though the login began before the COMMIT");
                out.go(*s, label)
                    .breaks(P | broken(Q, one.stage == Stage::Late));
            }
        }
    }
}

/// Its first statement takes the transaction's id; the transaction may have begun earlier, if not before a
/// crash.
fn go_on(mut t: State, at: usize, out: &mut Steps<State>, label: Label) {
    if t.all[at].stage != Stage::Idle {
        t.all[at].stage = Stage::Second;
        out.go(t, label);
        return;
    }
    t.all[at].stage = Stage::First;
    t.all[at].id = t.next_id;
    t.next_id += 1;
    for began in t.crashed_at.unwrap_or(0)..=t.now {
        t.all[at].at = began;
        out.go(t, label);
    }
}
