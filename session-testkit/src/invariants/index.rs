//! The history, indexed by session, by user and by node.

use std::collections::HashMap;

use super::spans::Spans;
use crate::{
    history::{Creation, Entry, Fault, History, Nanos, Op, Operation, Parameters},
    subject::Seen,
};

/// A validation and its result.
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

    /// Returns whether the result is Valid or Invalid, and can therefore be right or wrong.
    pub(super) fn is_decided(&self) -> bool {
        self.is_valid() || self.is_invalid()
    }
}

/// Returns whether the change may have taken effect from its call on, whatever its result.
pub(super) fn may_have_effect(change: &Operation) -> bool {
    change.op.change().is_none_or(|answer| !answer.without_effect())
}

/// All operations on one session. Its lists are sorted by call.
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
    /// Updates, revokes and rotations.
    pub(super) changes: Vec<&'a Operation>,
}

impl<'a> Session<'a> {
    pub(super) fn revokes(&self) -> impl Iterator<Item = &'a Operation> {
        self.changes.iter().copied().filter(|change| matches!(change.op, Op::Revoke { .. }))
    }
}

/// The indexed history.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) history: &'a History,
    /// Sorted by number.
    pub(super) sessions: Vec<Session<'a>>,
    pub(super) random: Vec<Validation<'a>>,
    /// Keyed by user.
    pub(super) revoke_alls: HashMap<&'a str, Vec<&'a Operation>>,
    /// Per node: the times when it was possibly cut off from Postgres.
    maybe_cut: Vec<Spans>,
    /// Per node: the times when it was certainly cut off from Postgres.
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
        let mut revoke_alls: HashMap<&str, Vec<&Operation>> = HashMap::new();
        for op in &history.operations {
            // A history from a file is complete, but one from a test may lack the session.
            let session = op.op.session().and_then(|number| sessions.get_mut(&number));
            match (&op.op, session) {
                (Op::Validate { token, .. }, Some(session)) => {
                    session.validations.push(Validation { op, token: *token, seen: op.op.seen() });
                }
                (Op::ValidateRandom { .. }, _) => {
                    random.push(Validation { op, token: 0, seen: op.op.seen() });
                }
                (Op::RevokeAll { user, .. }, _) => revoke_alls.entry(user).or_default().push(op),
                (Op::Update { .. } | Op::Revoke { .. } | Op::Rotate { .. }, Some(session)) => {
                    session.changes.push(op);
                }
                _ => {}
            }
        }
        let mut sessions: Vec<_> = sessions.into_values().collect();
        sessions.sort_by_key(|session| session.number);
        for session in &mut sessions {
            session.validations.sort_by_key(|each| each.op.call);
            session.changes.sort_by_key(|each| each.call);
        }
        for changes in revoke_alls.values_mut() {
            changes.sort_by_key(|each| each.call);
        }
        let faults = || history.faults.iter();
        let cut = |span: fn(&Fault) -> (Nanos, Nanos)| {
            let of_node = |node| {
                let cuts = faults().filter(move |fault| fault.no_postgres && fault.affects(node));
                Spans::merged(cuts.map(span))
            };
            (0..history.header.nodes).map(of_node).collect()
        };
        let redis = faults().filter(|fault| fault.no_redis);
        let untouched = faults().filter(|fault| fault.no_touch || fault.no_postgres);
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

    /// Returns whether the operation's node was certainly connected to Postgres during `span`
    /// before the call. Only then must it have read its journal.
    pub(super) fn is_connected(&self, operation: &Operation, span: Nanos) -> bool {
        let from = operation.call.saturating_sub(span);
        !maybe(&self.maybe_cut, operation.node, |cut| cut.overlap(from, operation.call))
    }

    /// Returns whether a session's use may have gone unrecorded in this span, on any node.
    pub(super) fn maybe_untouched(&self, from: Nanos, to: Nanos) -> bool {
        self.maybe_untouched.overlap(from, to)
    }

    /// Returns whether the node was certainly cut off from Postgres from the call to the result.
    pub(super) fn surely_cut(&self, operation: &Operation) -> bool {
        maybe(&self.surely_cut, operation.node, |cut| cut.cover(operation.call, operation.end()))
    }

    /// Returns whether Redis may have lost something in this span, on any node.
    pub(super) fn redis_disturbed(&self, from: Nanos, to: Nanos) -> bool {
        self.redis.overlap(from, to)
    }

    pub(super) fn revoke_alls(&self, session: &Session<'_>) -> &[&'a Operation] {
        self.revoke_alls.get(session.user).map_or(&[], Vec::as_slice)
    }
}

fn maybe(of: &[Spans], node: u32, ask: impl Fn(&Spans) -> bool) -> bool {
    usize::try_from(node).is_ok_and(|node| of.get(node).is_some_and(ask))
}

fn created(op: &Operation) -> Option<Session<'_>> {
    let Op::Create { session, user, data, began, lifetime_ms, idle_ms, answer } = &op.op else {
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

pub(super) fn proof<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> Vec<Entry> {
    operations.into_iter().cloned().map(Entry::Op).collect()
}
