//! R2: a token that was Invalid does not become Valid again.

use std::collections::HashMap;

use super::{
    findings::Findings,
    format::Named,
    index::{Index, Session, Validation, proof},
};
use crate::history::{Nanos, Operation, nanos};

/// Checks R2: after Invalid was returned, no validate that starts D later is Valid. On one server
/// whose UNLINKs are acknowledged, no later validate is Valid.
///
/// A violation is a Valid for a token, begun more than D after an Invalid for it was returned. For
/// a node that may have been partitioned in that time, TTL + lease replaces D, as in R1Δ. With
/// `single_server` in the header, D is 0 if no fault touched Redis from the Invalid's call to the
/// Valid's result. The Invalid's UNLINK then succeeded.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("results of validates begun after an Invalid");
    for session in &index.sessions {
        let mut denied: HashMap<u32, Vec<&Operation>> = HashMap::new();
        for validation in session.validations.iter().filter(|each| each.is_invalid()) {
            denied.entry(validation.token).or_default().push(validation.op);
        }
        let denied: HashMap<u32, Denials<'_>> =
            denied.into_iter().map(|(token, denials)| (token, Denials::new(denials))).collect();
        for validation in &session.validations {
            if let Some(denials) = denied.get(&validation.token) {
                judge(index, session, denials, validation, &mut findings);
            }
        }
    }
    findings
}

fn judge(
    index: &Index<'_>,
    session: &Session<'_>,
    denials: &Denials<'_>,
    validation: &Validation<'_>,
    findings: &mut Findings,
) {
    if !validation.is_decided() {
        return;
    }
    let Some(denial) = denials.binding(index, validation.op) else {
        return;
    };
    findings.examine(validation.is_valid(), || {
        let name = Named(session.number, validation.token);
        (format!("{name} was Invalid, and Valid again later"), proof([denial, validation.op]))
    });
}

/// The Invalids of one token, sorted by result. Never empty.
struct Denials<'a> {
    all: Vec<&'a Operation>,
    /// For each position, the one up to there whose call is the latest.
    latest: Vec<usize>,
}

impl<'a> Denials<'a> {
    fn new(mut all: Vec<&'a Operation>) -> Self {
        all.sort_by_key(|op| op.end());
        let mut latest: Vec<usize> = Vec::with_capacity(all.len());
        for at in 0..all.len() {
            let before = latest.last().copied().unwrap_or(at);
            latest.push(if all[at].call >= all[before].call { at } else { before });
        }
        Self { all, latest }
    }

    /// Returns an Invalid that must be visible to this validation.
    fn binding(&self, index: &Index<'_>, validation: &Operation) -> Option<&'a Operation> {
        let parameters = index.parameters();
        let first = *self.all.first()?;
        let began_after = |span: Nanos| first.end().saturating_add(span) < validation.call;
        let d = nanos(parameters.d);
        if began_after(d) && index.is_connected(validation, d) {
            return Some(first);
        }
        if began_after(nanos(parameters.ttl.saturating_add(parameters.lease))) {
            return Some(first);
        }
        if !parameters.single_server {
            return None;
        }
        // Of those that returned before, the last one has the shortest span in which Redis must be
        // undisturbed.
        let before = self.all.partition_point(|op| op.end() < validation.call);
        let last = self.all[self.latest[before.checked_sub(1)?]];
        (!index.redis_disturbed(last.call, validation.end())).then_some(last)
    }
}
