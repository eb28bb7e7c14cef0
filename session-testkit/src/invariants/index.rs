//! A history, arranged for the checks: by session, by user, by node.

use std::collections::HashMap;

use super::spans::Spans;
use crate::{
    history::{Change, Creation, Entry, Fault, History, Nanos, Op, Operation, Parameters},
    subject::Seen,
};

/// A validation and its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validation<'a> {
    pub(super) op: &'a Operation,
    pub(super) token: u32,
    pub(super) seen: Option<&'a Seen>,
}

impl Validation<'_> {
    pub(super) fn is_valid(&self) -> bool {
        matches!(self.seen, Some(Seen::Valid { .. }))
    }

    pub(super) fn is_invalid(&self) -> bool {
        matches!(self.seen, Some(Seen::Invalid))
    }

    /// Valid or Invalid: an answer that can be right or wrong.
    pub(super) fn says_something(&self) -> bool {
        self.is_valid() || self.is_invalid()
    }
}

/// An update, revoke, rotation or revoke-all, and its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changing<'a> {
    pub(super) op: &'a Operation,
    pub(super) answer: Option<&'a Change>,
    pub(super) kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    Update {
        data: &'a str,
    },
    Revoke,
    Rotate {
        token: u32,
        new: Option<u32>,
        grace_ms: u64,
    },
    RevokeAll,
}

impl Changing<'_> {
    /// Whatever was answered, something may have been changed from its call on.
    pub(super) fn may_have_effect(&self) -> bool {
        self.answer.is_none_or(|answer| !answer.without_effect())
    }
}

/// All about one session. Its lists are in the order of their calls.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) number: u32,
    pub(super) create: &'a Operation,
    pub(super) user: &'a str,
    pub(super) data: &'a str,
    pub(super) began: Nanos,
    pub(super) lifetime_ms: Option<u64>,
    pub(super) idle_ms: Option<u64>,
    pub(super) answer: Option<&'a Creation>,
    pub(super) validations: Vec<Validation<'a>>,
    pub(super) changes: Vec<Changing<'a>>,
}

/// The arranged history.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) history: &'a History,
    /// By number.
    pub(super) sessions: Vec<Session<'a>>,
    pub(super) random: Vec<Validation<'a>>,
    /// By user.
    pub(super) revoke_alls: HashMap<&'a str, Vec<Changing<'a>>>,
    /// By node: when it may have been out of touch with Postgres, and when it was for certain.
    maybe_cut: Vec<Spans>,
    surely_cut: Vec<Spans>,
    redis: Spans,
    maybe_untouched: Spans,
}

impl<'a> Index<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let mut sessions: HashMap<u32, Session<'a>> = HashMap::new();
        for op in &history.operations {
            if let Some(session) = created(op) {
                sessions.insert(session.number, session);
            }
        }
        let mut random = Vec::new();
        let mut revoke_alls: HashMap<&str, Vec<Changing<'_>>> = HashMap::new();
        for op in &history.operations {
            // Reading made sure that the session is there; by hand it may be missing.
            let session = op.op.session().and_then(|number| sessions.get_mut(&number));
            let changing = |answer: &'a Option<Change>, kind| Changing {
                op,
                answer: answer.as_ref(),
                kind,
            };
            match (&op.op, session) {
                (Op::Validate { token, answer, .. }, Some(session)) => {
                    session.validations.push(Validation {
                        op,
                        token: *token,
                        seen: answer.as_ref(),
                    });
                }
                (Op::Update { data, answer, .. }, Some(session)) => {
                    session
                        .changes
                        .push(changing(answer, Kind::Update { data }));
                }
                (Op::Revoke { answer, .. }, Some(session)) => {
                    session.changes.push(changing(answer, Kind::Revoke));
                }
                (
                    Op::Rotate {
                        token,
                        new_token,
                        grace_ms,
                        answer,
                        ..
                    },
                    Some(session),
                ) => {
                    let kind = Kind::Rotate {
                        token: *token,
                        new: *new_token,
                        grace_ms: *grace_ms,
                    };
                    session.changes.push(changing(answer, kind));
                }
                (Op::ValidateRandom { answer }, _) => random.push(Validation {
                    op,
                    token: 0,
                    seen: answer.as_ref(),
                }),
                (Op::RevokeAll { user, answer }, _) => {
                    let of_user = revoke_alls.entry(user).or_default();
                    of_user.push(changing(answer, Kind::RevokeAll));
                }
                _ => {}
            }
        }
        let mut sessions: Vec<_> = sessions.into_values().collect();
        sessions.sort_by_key(|session| session.number);
        for session in &mut sessions {
            session.validations.sort_by_key(|each| each.op.call);
            session.changes.sort_by_key(|each| each.op.call);
        }
        for changes in revoke_alls.values_mut() {
            changes.sort_by_key(|each| each.op.call);
        }
        let cut = |span: fn(&Fault) -> (Nanos, Nanos)| {
            let of_node = move |node| {
                let felt = history.faults.iter();
                let felt = felt.filter(move |fault| fault.no_postgres && fault.is_felt_by(node));
                Spans::merged(felt.map(span))
            };
            (0..history.header.nodes).map(of_node).collect()
        };
        let redis = history.faults.iter().filter(|fault| fault.no_redis);
        let untouched = history.faults.iter();
        let untouched = untouched.filter(|fault| fault.no_touch || fault.no_postgres);
        Self {
            history,
            sessions,
            random,
            revoke_alls,
            maybe_cut: cut(Fault::longest),
            surely_cut: cut(Fault::certain),
            redis: Spans::merged(redis.map(Fault::longest)),
            maybe_untouched: Spans::merged(untouched.map(Fault::longest)),
        }
    }

    pub(super) fn parameters(&self) -> &Parameters {
        &self.history.header.parameters
    }

    /// Was the operation's node in touch with Postgres for all of this span before the call? Only then
    /// must it have read its journal.
    pub(super) fn in_touch(&self, operation: &Operation, span: Nanos) -> bool {
        let from = operation.call.saturating_sub(span);
        !maybe(&self.maybe_cut, operation.node, |cut| {
            cut.overlap(from, operation.call)
        })
    }

    /// May the use of a session have gone unnoted at some time in this span, on some node?
    pub(super) fn maybe_untouched(&self, from: Nanos, to: Nanos) -> bool {
        self.maybe_untouched.overlap(from, to)
    }

    /// Could its node not ask Postgres at any time between call and answer?
    pub(super) fn surely_cut(&self, operation: &Operation) -> bool {
        maybe(&self.surely_cut, operation.node, |cut| {
            cut.cover(operation.call, operation.end())
        })
    }

    /// May Redis have lost something in this span, for any node?
    pub(super) fn redis_disturbed(&self, from: Nanos, to: Nanos) -> bool {
        self.redis.overlap(from, to)
    }

    /// The revoke-alls of the session's user.
    pub(super) fn revoke_alls(&self, session: &Session<'_>) -> &[Changing<'a>] {
        self.revoke_alls
            .get(session.user)
            .map_or(&[], Vec::as_slice)
    }
}

fn maybe(of: &[Spans], node: u32, ask: impl Fn(&Spans) -> bool) -> bool {
    usize::try_from(node).is_ok_and(|node| of.get(node).is_some_and(ask))
}

fn created(op: &Operation) -> Option<Session<'_>> {
    let Op::Create {
        session,
        user,
        data,
        began,
        lifetime_ms,
        idle_ms,
        answer,
    } = &op.op
    else {
        return None;
    };
    Some(Session {
        number: *session,
        create: op,
        user,
        data,
        began: began.unwrap_or(op.call),
        lifetime_ms: *lifetime_ms,
        idle_ms: *idle_ms,
        answer: answer.as_ref(),
        validations: Vec::new(),
        changes: Vec::new(),
    })
}

/// A proof from operations.
pub(super) fn proof<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> Vec<Entry> {
    operations.into_iter().cloned().map(Entry::Op).collect()
}
