//! R1, R1Δ and R13: what was ended is not honoured any more.

use std::time::Duration;

use super::{
    bounds::{Bound, Bounds},
    findings::Findings,
    index::{Changing, Index, Kind, Session, Validation, proof},
    words::Named,
};
use crate::history::Change;

/// R1. *Revoke answered `Propagated` at t: no validate that starts after t, on any node, is Valid.*
///
/// Broken by a Valid for a session whose call comes after such an answer. A rotation counts as a revoke
/// of the old token alone, at its answer, its grace (and the skew, if there is a grace) later.
pub(super) fn propagated(index: &Index<'_>) -> Findings {
    let findings = Findings::of("answers to validates begun after a `Propagated`");
    revoked(index, findings, |answer| {
        matches!(answer, Change::Propagated)
    })
}

/// R1Δ. *Revoke answered `Committed` at t: the same from t + `within` (nodes in touch with Postgres),
/// t + `at_most` (any node).*
///
/// A node counts as in touch if no fault may have kept it from Postgres at any time in the span `within`
/// that ends with the call.
pub(super) fn committed(index: &Index<'_>) -> Findings {
    let findings = Findings::of("answers to validates begun after the bound of a `Committed`");
    revoked(index, findings, |answer| {
        matches!(answer, Change::Committed { .. })
    })
}

/// R13. *Revoke-all ends every session whose login began before it committed.*
///
/// It committed at its call at the earliest, so the sessions are those of the user whose login had begun
/// before that; one whose login was answered later counts too. Broken by a Valid for one of them,
/// begun after the bound of revoke-all's answer.
pub(super) fn everywhere(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("answers to validates begun after a revoke-all");
    // One for each user, and not for each session: a user may have thousands of both.
    let by_user: std::collections::HashMap<_, _> = index
        .revoke_alls
        .iter()
        .map(|(user, all)| {
            let bounds = all
                .iter()
                .filter_map(|each| Bound::of(each.op, each.answer, Duration::ZERO));
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
                format!("{name}, whose login began before a revoke-all, was honoured after it")
            });
        }
    }
    findings
}

fn revoked(index: &Index<'_>, mut findings: Findings, wanted: fn(&Change) -> bool) -> Findings {
    for session in &index.sessions {
        let ends = |each: &&Changing<'_>| each.answer.is_some_and(wanted);
        let revokes = session
            .changes
            .iter()
            .filter(ends)
            .filter(|each| matches!(each.kind, Kind::Revoke))
            .filter_map(|each| Bound::of(each.op, each.answer, Duration::ZERO));
        let whole = Bounds::new(revokes);
        let rotations: Vec<_> = session
            .changes
            .iter()
            .filter(ends)
            .filter_map(|each| rotated_away(index, each))
            .collect();
        if whole.is_empty() && rotations.is_empty() {
            continue;
        }
        // A token is rotated away once, so this map holds one bound each but for misbehaving subjects.
        let mut of_token: std::collections::HashMap<u32, Vec<Bound<'_>>> = Default::default();
        for (token, bound) in rotations {
            of_token.entry(token).or_default().push(bound);
        }
        let of_token: std::collections::HashMap<_, _> = of_token
            .into_iter()
            .map(|(token, bounds)| (token, Bounds::new(bounds)))
            .collect();
        for validation in &session.validations {
            let by = whole.binding(index, None, validation.op).or_else(|| {
                of_token
                    .get(&validation.token)?
                    .binding(index, None, validation.op)
            });
            judge(&mut findings, session, validation, by, |name| {
                format!("{name} was honoured after its end had been answered")
            });
        }
    }
    findings
}

/// The token that a rotation ended, and from when on.
fn rotated_away<'a>(index: &Index<'_>, each: &Changing<'a>) -> Option<(u32, Bound<'a>)> {
    let Kind::Rotate {
        token, grace_ms, ..
    } = each.kind
    else {
        return None;
    };
    let grace = Duration::from_millis(grace_ms);
    let extra = if grace.is_zero() {
        grace
    } else {
        grace.saturating_add(index.parameters().skew)
    };
    Some((token, Bound::of(each.op, each.answer, extra)?))
}

/// Counts, and calls a Valid broken.
fn judge(
    findings: &mut Findings,
    session: &Session<'_>,
    validation: &Validation<'_>,
    by: Option<Bound<'_>>,
    what: impl FnOnce(String) -> String,
) {
    let Some(bound) = by.filter(|_| validation.says_something()) else {
        return;
    };
    findings.examined += 1;
    if validation.is_valid() {
        findings.broken(|| {
            let name = Named(session.number, validation.token).to_string();
            let operations = [session.create, bound.by, validation.op];
            (what(name), proof(operations))
        });
    }
}
