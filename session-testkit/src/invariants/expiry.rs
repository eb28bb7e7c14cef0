//! R6: nothing is Valid after its expiry.

use super::{
    findings::Findings,
    index::{Index, Session, proof},
    words::Named,
};
use crate::{
    history::{Creation, Nanos, Operation, nanos},
    subject::Seen,
};

const MS: Nanos = 1_000_000;

/// R6. *No Valid after expiry (absolute, idle) beyond the documented skew.*
///
/// Broken by a Valid that began later than: the lifetime after create's answer, or the idle timeout after
/// the end of the last use that began while the session was alive; both plus the skew. A use is anything
/// but an Invalid or a refusal, for an answer that got lost may have touched the session. One without an
/// answer may do so for ever, and leaves nothing to say of that session's idle timeout.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("answers to validates begun after an expiry");
    let skew = nanos(index.parameters().skew);
    for session in &index.sessions {
        if session.answer != Some(&Creation::Created) {
            continue;
        }
        let end = |from: Nanos, ms: u64| {
            from.saturating_add(ms.saturating_mul(MS))
                .saturating_add(skew)
        };
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
            findings.examined += 1;
            if matches!(seen, Some(Seen::Valid { .. })) {
                findings.broken(|| {
                    let name = Named(session.number, 0);
                    (
                        format!("{name} was honoured after {which}"),
                        proof([session.create, op]),
                    )
                });
            }
        }
    }
    findings
}

/// Everything that was asked about a session, in the order of the calls, with what was seen.
fn uses<'a>(session: &Session<'a>) -> Vec<(&'a Operation, Option<&'a Seen>)> {
    let validations = session.validations.iter().map(|each| (each.op, each.seen));
    let changes = session
        .changes
        .iter()
        .filter(|each| each.may_have_effect())
        .map(|each| (each.op, None));
    let mut all: Vec<_> = validations.chain(changes).collect();
    all.sort_by_key(|(op, _)| op.call);
    all
}
