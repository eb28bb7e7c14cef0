//! R6: no validate is Valid after the expiry.

use super::{
    findings::Findings,
    format::Named,
    index::{Index, Session, may_have_effect, proof},
};
use crate::{
    history::{Creation, Nanos, Operation, nanos},
    subject::Seen,
};

const MS: Nanos = 1_000_000;

/// Checks R6: no validate is Valid after the expiry, absolute or idle, beyond the documented skew.
///
/// A violation is a Valid that began after one of these times, plus the skew:
///
/// - the lifetime after create's result,
/// - the idle timeout after the end of the last use that began while the session was active.
///
/// A use is any operation except an Invalid or a refusal, because a lost result may have touched
/// the session. An operation without a result may touch it at any later time. Nothing can then be
/// concluded about that session's idle timeout.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("results of validates begun after an expiry");
    let skew = nanos(index.parameters().skew);
    for session in &index.sessions {
        if session.answer != Some(&Creation::Created) {
            continue;
        }
        let end =
            |from: Nanos, ms: u64| from.saturating_add(ms.saturating_mul(MS)).saturating_add(skew);
        let born = session.create.end();
        let absolute = session.lifetime_ms.map(|lifetime| end(born, lifetime));
        let mut idle = session.idle_ms.map(|idle| end(born, idle));
        for (op, seen) in uses(session) {
            let over = |limit: Option<Nanos>| limit.is_some_and(|limit| op.call > limit);
            let which = if over(absolute) {
                "its absolute timeout"
            } else if over(idle) {
                "its idle timeout"
            } else {
                if let (Some(limit), Some(ms), false) =
                    (idle, session.idle_ms, seen == Some(&Seen::Invalid))
                {
                    idle = Some(limit.max(end(op.end(), ms)));
                }
                continue;
            };
            let Some(Seen::Valid { .. } | Seen::Invalid) = seen else {
                continue;
            };
            findings.examine(matches!(seen, Some(Seen::Valid { .. })), || {
                let name = Named(session.number, 0);
                (format!("{name} was Valid after {which}"), proof([session.create, op]))
            });
        }
    }
    findings
}

/// Returns all operations on a session, sorted by call, with the results of validations.
fn uses<'a>(session: &Session<'a>) -> Vec<(&'a Operation, Option<&'a Seen>)> {
    let validations = session.validations.iter().map(|each| (each.op, each.seen));
    let changes = session.changes.iter().copied();
    let changes = changes.filter(|each| may_have_effect(each)).map(|each| (each, None));
    let mut all: Vec<_> = validations.chain(changes).collect();
    all.sort_by_key(|(op, _)| op.call);
    all
}
