//! R1, R1Δ and R13: a session that was ended is not Valid any more.

use std::{collections::HashMap, time::Duration};

use super::{
    bounds::{Bound, Bounds},
    findings::Findings,
    format::Named,
    index::{Index, Session, Validation, proof},
};
use crate::history::{Change, Op, Operation};

/// Checks R1: after a revoke returned `Propagated`, no validate that starts later is Valid.
///
/// A violation is a Valid for the session whose call comes after that result. A rotation counts as
/// a revoke of the old token, from its result plus the grace. With a grace, the skew is added too.
pub(super) fn propagated(index: &Index<'_>) -> Findings {
    let findings = Findings::of("results of validates begun after a `Propagated`");
    revoked(index, findings, |answer| matches!(answer, Change::Propagated))
}

/// Checks R1Δ: after a revoke returned `Committed`, the same holds from `within` on connected
/// nodes, and from `at_most` on every node.
///
/// A node counts as connected if no fault may have cut it off from Postgres in the span `within`
/// before the call.
pub(super) fn committed(index: &Index<'_>) -> Findings {
    let findings = Findings::of("results of validates begun after the bound of a `Committed`");
    revoked(index, findings, |answer| matches!(answer, Change::Committed { .. }))
}

/// Checks R13: revoke-all ends every session whose login began before it committed.
///
/// It committed at its call at the earliest. The check therefore covers those sessions of the user
/// whose login had begun before the call, even if the login returned later. A violation is a Valid
/// for one of them, begun after the bound of revoke-all's result.
pub(super) fn everywhere(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("results of validates begun after a revoke-all");
    // Bounds are built per user and not per session, because a user may have thousands of each.
    let by_user: HashMap<_, _> = index
        .revoke_alls
        .iter()
        .map(|(user, all)| {
            let bounds = all.iter().filter_map(|each| Bound::of(each, Duration::ZERO));
            (*user, Bounds::new(bounds))
        })
        .collect();
    for session in &index.sessions {
        let Some(bounds) = by_user.get(session.user) else {
            continue;
        };
        for validation in &session.validations {
            let by = bounds.binding(index, Some(session.began), validation.op);
            judge(&mut findings, session, validation, by, |name| {
                format!("{name} was Valid after a revoke-all, although its login began before")
            });
        }
    }
    findings
}

fn revoked(index: &Index<'_>, mut findings: Findings, counts: fn(&Change) -> bool) -> Findings {
    for session in &index.sessions {
        let ends = |each: &&Operation| each.op.change().is_some_and(counts);
        let revokes = session.revokes().filter(ends);
        let whole = Bounds::new(revokes.filter_map(|each| Bound::of(each, Duration::ZERO)));
        let mut of_token: HashMap<u32, Vec<Bound<'_>>> = HashMap::new();
        for each in session.changes.iter().copied().filter(ends) {
            if let Some((token, bound)) = rotated_away(index, each) {
                of_token.entry(token).or_default().push(bound);
            }
        }
        if whole.is_empty() && of_token.is_empty() {
            continue;
        }
        let of_token: HashMap<_, _> =
            of_token.into_iter().map(|(token, bounds)| (token, Bounds::new(bounds))).collect();
        for validation in &session.validations {
            let by = whole
                .binding(index, None, validation.op)
                .or_else(|| of_token.get(&validation.token)?.binding(index, None, validation.op));
            judge(&mut findings, session, validation, by, |name| {
                format!("{name} was Valid after a change that ended it had returned")
            });
        }
    }
    findings
}

fn rotated_away<'a>(index: &Index<'_>, each: &'a Operation) -> Option<(u32, Bound<'a>)> {
    let Op::Rotate { token, grace_ms, .. } = each.op else {
        return None;
    };
    let grace = Duration::from_millis(grace_ms);
    let extra = if grace.is_zero() { grace } else { grace.saturating_add(index.parameters().skew) };
    Some((token, Bound::of(each, extra)?))
}

/// Counts the validation, and reports a Valid as a violation.
fn judge(
    findings: &mut Findings,
    session: &Session<'_>,
    validation: &Validation<'_>,
    by: Option<Bound<'_>>,
    what: impl FnOnce(String) -> String,
) {
    let Some(bound) = by.filter(|_| validation.is_decided()) else {
        return;
    };
    findings.examine(validation.is_valid(), || {
        let name = Named(session.number, validation.token).to_string();
        let operations = [session.create, bound.by, validation.op];
        (what(name), proof(operations))
    });
}
