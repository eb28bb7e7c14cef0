//! revoke-all against a login under way (R13). A login notes where Postgres stands when it begins; `create`
//! locks the user's row FOR SHARE, refuses if the epoch was raised by a transaction that is not visible in
//! what was noted, and inserts; a revoke-all raises the epoch first and revokes rows in a second statement.
//!
//! One login, two revoke-alls, a user who may never have logged in before.

use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps, say};

/// No login is refused that began after every revoke-all.
pub(crate) const REFUSED: u32 = 4;

/// What `create` goes by.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Notes {
    /// The epoch as `create` finds it: nothing is noted.
    Nothing,
    /// The user's epoch when the login began.
    Epoch,
    /// Postgres' snapshot when the login began: which revoke-alls had committed. As it is built.
    Snapshot,
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
    raised_by: Option<u8>,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    user: Option<User>,
    all: [RevokeAll; 2],
    login: Step,
    /// By revoke-all: it had not committed when the login began.
    before: [bool; 2],
    /// By revoke-all: what was noted counts it as seen.
    noted: [bool; 2],
    noted_epoch: u8,
    epoch: u8,
    revoked: bool,
    leased: bool,
    copy: bool,
}

impl Model for Login {
    type State = State;

    fn start(&self) -> State {
        State {
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
    }
}

impl Login {
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
        t.noted = t.all.map(|one| match self.notes {
            Notes::NextId => one.stage >= Stage::First,
            _ => one.stage >= Stage::Committed,
        });
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
                let refused = match self.notes {
                    Notes::Nothing => false,
                    Notes::Epoch => user.epoch != s.noted_epoch,
                    Notes::Snapshot | Notes::NextId => {
                        user.raised_by.is_some_and(|by| !s.noted[usize::from(by)])
                    }
                };
                t.epoch = user.epoch;
                if refused {
                    t.login = Step::Refused;
                    let needless = (s.all.iter().zip(s.before))
                        .all(|(one, before)| one.stage < Stage::Committed || !before);
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
                t.all[at].stage = next(stage);
                let label = say("revoke-all {n}: raises the user's epoch");
                out.go(t, label.n(i + 1));
            }
            stage @ (Stage::Idle | Stage::First) => {
                t.all[at].stage = next(stage);
                t.all[at].saw = s.login == Step::Created;
                let label = say(if t.all[at].saw {
                    "revoke-all {n}: revokes the rows, sees the new one"
                } else {
                    "revoke-all {n}: revokes the rows, doesn't see the new one"
                });
                out.go(t, label.n(i + 1));
            }
            Stage::Second => {
                t.all[at].stage = Stage::Committed;
                let epoch = s.user.map_or(0, |user| user.epoch) + 1;
                t.user = Some(User {
                    epoch,
                    raised_by: Some(i),
                });
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

fn next(stage: Stage) -> Stage {
    if stage == Stage::Idle {
        Stage::First
    } else {
        Stage::Second
    }
}
