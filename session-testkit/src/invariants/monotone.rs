//! R2: what was Invalid once does not become Valid again.

use std::collections::HashMap;

use super::{
    findings::Findings,
    index::{Index, Session, Validation, proof},
    words::Named,
};
use crate::history::{Nanos, Operation, nanos};

/// R2. *Monotone: once Invalid was answered, no validate that starts D later is Valid; on one server whose
/// UNLINKs are acknowledged, none that starts later at all.*
///
/// Broken by a Valid for a token, begun more than D after an Invalid for the same token was answered. A node
/// that may have been out of touch with Postgres in those D has TTL + lease instead, as in R1Δ. Where the
/// header says `single_server`, D is 0 if no fault touched Redis from the Invalid's call to the Valid's
/// answer: then what the Invalid removed from Redis was removed.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("answers to validates begun after an Invalid");
    for session in &index.sessions {
        let mut denied: HashMap<u32, Vec<&Operation>> = HashMap::new();
        for validation in session.validations.iter().filter(|each| each.is_invalid()) {
            denied
                .entry(validation.token)
                .or_default()
                .push(validation.op);
        }
        let denied: HashMap<u32, Denials<'_>> = denied
            .into_iter()
            .map(|(token, denials)| (token, Denials::new(denials)))
            .collect();
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
    if !validation.says_something() {
        return;
    }
    let Some(denial) = denials.binding(index, validation.op) else {
        return;
    };
    findings.examined += 1;
    if validation.is_valid() {
        findings.broken(|| {
            let name = Named(session.number, validation.token);
            (
                format!("{name} was Invalid, and Valid again later"),
                proof([denial, validation.op]),
            )
        });
    }
}

/// The Invalids of one token, by their answers. Never empty.
struct Denials<'a> {
    all: Vec<&'a Operation>,
    /// For each position: the one up to there whose call is the latest.
    latest: Vec<usize>,
}

impl<'a> Denials<'a> {
    fn new(mut all: Vec<&'a Operation>) -> Self {
        all.sort_by_key(|op| op.end());
        let mut latest: Vec<usize> = Vec::with_capacity(all.len());
        for at in 0..all.len() {
            let before = latest.last().copied().unwrap_or(at);
            latest.push(if all[at].call >= all[before].call {
                at
            } else {
                before
            });
        }
        Self { all, latest }
    }

    /// One of them that this validation must know of.
    fn binding(&self, index: &Index<'_>, validation: &Operation) -> Option<&'a Operation> {
        let parameters = index.parameters();
        let first = *self.all.first()?;
        let began_after = |span: Nanos| first.end().saturating_add(span) < validation.call;
        let d = nanos(parameters.d);
        if began_after(d) && index.in_touch(validation, d) {
            return Some(first);
        }
        if began_after(nanos(parameters.ttl.saturating_add(parameters.lease))) {
            return Some(first);
        }
        if !parameters.single_server {
            return None;
        }
        // Of those answered before, the one begun last has the best chance of a quiet Redis since.
        let before = self.all.partition_point(|op| op.end() < validation.call);
        let last = self.all[self.latest[before.checked_sub(1)?]];
        (!index.redis_disturbed(last.call, validation.end())).then_some(last)
    }
}
