//! R3: an active session is never Invalid.

use std::collections::HashMap;

use super::{
    findings::Findings,
    format::Named,
    index::{Index, Session, may_have_effect, proof},
};
use crate::history::{Change, Creation, Nanos, Op, Operation, nanos};

const MS: Nanos = 1_000_000;

/// Checks R3: from the success of create to the start of revoke, or to the expiry, no validate is
/// Invalid.
///
/// A violation is an Invalid that returned before anything that may have ended the token began:
///
/// - a revoke, or a revoke-all of its user,
/// - a rotation: for the old token, its grace later,
/// - the expiry, less the skew. For an idle timeout, the lateness of a touch is subtracted too.
///
/// A change that returned `Refused` or `Nothing` ended nothing. A revoke that returned `Nothing`
/// counts as an Invalid.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("results about active sessions");
    for session in &index.sessions {
        // Without that result no client has the token.
        if session.answer != Some(&Creation::Created) {
            continue;
        }
        let tokens = Tokens::of(index, session);
        let mut last_valid = LastValid::new(session, &tokens);
        let answers = session
            .validations
            .iter()
            .map(|each| (each.op, each.token, each.is_decided(), each.is_invalid()));
        let nothings = session.changes.iter().filter_map(|each| match each.op {
            Op::Revoke { token, answer: Some(Change::Nothing), .. } => {
                Some((*each, token, true, true))
            }
            _ => None,
        });
        let mut all: Vec<_> = answers.chain(nothings).collect();
        all.sort_by_key(|(op, ..)| op.call);
        for (op, token, is_decided, denies) in all {
            let in_force = op.end() < tokens.end(token)
                && !maybe_idle_out(index, session, last_valid.before(op.call), op);
            if !is_decided || !in_force {
                continue;
            }
            findings.examine(denies, || {
                let name = Named(session.number, token);
                (format!("{name} was Invalid although it was active"), proof([session.create, op]))
            });
        }
    }
    findings
}

/// The times from which each token of a session may have ended.
struct Tokens {
    session: Nanos,
    /// The end by rotation of every issued token.
    rotated: HashMap<u32, Nanos>,
}

impl Tokens {
    fn of(index: &Index<'_>, session: &Session<'_>) -> Self {
        let ends = session
            .revokes()
            .chain(index.revoke_alls(session).iter().copied())
            .filter(|each| may_have_effect(each))
            .map(|each| each.call);
        let expiry = session.lifetime_ms.map(|lifetime| {
            let end = session.create.call.saturating_add(lifetime.saturating_mul(MS));
            end.saturating_sub(nanos(index.parameters().skew))
        });
        let end = ends.chain(expiry).min().unwrap_or(Nanos::MAX);
        let rotations = session.changes.iter().copied();
        let rotations: Vec<_> = rotations
            .filter(|each| matches!(each.op, Op::Rotate { .. }) && may_have_effect(each))
            .collect();
        Self { session: end, rotated: ends_by_rotation(session, &rotations) }
    }

    fn end(&self, token: u32) -> Nanos {
        // Nothing is promised about a token that was not issued.
        self.session.min(self.rotated.get(&token).copied().unwrap_or(0))
    }
}

/// Returns when each token may have ended by rotation. Every rotation counts that was not over when
/// the token's own began. It ends the token at once, or after the grace if it was called with that
/// token.
///
/// `rotations` are sorted by call. For a token from rotation i, two kinds count: the later ones,
/// and the earlier ones without a result by then.
fn ends_by_rotation(session: &Session<'_>, rotations: &[&Operation]) -> HashMap<u32, Nanos> {
    let mut ends = HashMap::new();
    // The latest end of the earlier rotations shows whether any was still open.
    let mut open_until = 0;
    let mut issue = |token: u32, issued: &Operation, rest: &[&Operation], open: bool| {
        let mut end = if open { issued.call } else { Nanos::MAX };
        // Rotations of one session are a chain: the first one of another token ends this one at
        // once. The loop therefore visits only a few.
        for each in rest {
            let Op::Rotate { token: old, grace_ms, .. } = each.op else {
                continue;
            };
            if each.call >= end {
                break;
            }
            let grace = if old == token { grace_ms.saturating_mul(MS) } else { 0 };
            end = end.min(each.call.saturating_add(grace));
        }
        ends.insert(token, end);
    };
    issue(0, session.create, rotations, false);
    for (at, each) in rotations.iter().enumerate() {
        if let Op::Rotate { new_token: Some(new), .. } = each.op {
            let open = open_until >= each.call;
            issue(new, each, rotations.get(at + 1..).unwrap_or_default(), open);
        }
        open_until = open_until.max(each.end());
    }
    ends
}

/// Returns whether the idle timeout may have run out by the operation's result. The touch of the
/// last use may be late, and fails while Postgres is unreachable or read-only.
fn maybe_idle_out(
    index: &Index<'_>,
    session: &Session<'_>,
    last_use: Nanos,
    operation: &Operation,
) -> bool {
    let Some(idle) = session.idle_ms else {
        return false;
    };
    let parameters = index.parameters();
    let early = nanos(parameters.touch.saturating_add(parameters.skew));
    let end = last_use.saturating_add(idle.saturating_mul(MS)).saturating_sub(early);
    operation.end() >= end || index.maybe_untouched(last_use, operation.end())
}

/// The call of the last use before some time. Queries must be in the order of time.
///
/// A Valid is a use, because the touch precedes the result if little time is left. A Valid for a
/// token that may have been rotated away may come from an old entry and then touches nothing.
struct LastValid {
    /// The result time and the call time of each Valid, sorted by result.
    valids: std::iter::Peekable<std::vec::IntoIter<(Nanos, Nanos)>>,
    last: Nanos,
}

impl LastValid {
    fn new(session: &Session<'_>, tokens: &Tokens) -> Self {
        let valids = session
            .validations
            .iter()
            .filter(|each| each.is_valid() && each.op.end() < tokens.end(each.token));
        let mut valids: Vec<_> = valids.map(|each| (each.op.end(), each.op.call)).collect();
        valids.sort_unstable();
        Self { valids: valids.into_iter().peekable(), last: session.create.call }
    }

    fn before(&mut self, time: Nanos) -> Nanos {
        while let Some((_, call)) = self.valids.next_if(|(ret, _)| *ret < time) {
            self.last = self.last.max(call);
        }
        self.last
    }
}
