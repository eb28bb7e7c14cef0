//! R2: a token that was Invalid does not become Valid again.

use std::{collections::HashMap, hash::Hash};

use super::{
    findings::Findings,
    format::Named,
    index::{Index, Session, Validation, proof},
};
use crate::history::{Nanos, Operation, nanos};

/// Checks R2: after Invalid was returned, no validate that starts D later is Valid. On one server
/// whose UNLINKs are acknowledged, no later validate is Valid. With near caches, no later one on
/// the same node is.
///
/// A violation is a Valid for a token, begun more than D after an Invalid for it was returned. For
/// a node that may have been partitioned in that time, TTL + lease replaces D, as in R1Δ. With
/// `single_server` in the header, D is 0 if no fault touched Redis from the Invalid's call to the
/// Valid's result. The Invalid's UNLINK then succeeded.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("results of validates begun after an Invalid");
    for session in &index.sessions {
        let near_caches = index.parameters().near_caches;
        // The node is part of the key if each node has entries of its own.
        let place = |each: &Validation<'_>| (each.token, near_caches.then_some(each.op.node));
        let everywhere = denials(session, |each| each.token);
        let at_once = denials(session, place);
        for validation in &session.validations {
            let binding = everywhere
                .get(&validation.token)
                .and_then(|denials| denials.within_the_bound(index, validation.op))
                .or_else(|| at_once.get(&place(validation))?.at_once(index, validation.op));
            if let Some(denial) = binding {
                judge(session, denial, validation, &mut findings);
            }
        }
    }
    findings
}

/// Returns the Invalids of a session by this key.
fn denials<'a, K: Eq + Hash>(
    session: &Session<'a>,
    key: impl Fn(&Validation<'a>) -> K,
) -> HashMap<K, Denials<'a>> {
    let mut denied: HashMap<K, Vec<&Operation>> = HashMap::new();
    for validation in session.validations.iter().filter(|each| each.is_invalid()) {
        denied.entry(key(validation)).or_default().push(validation.op);
    }
    denied.into_iter().map(|(key, denials)| (key, Denials::new(denials))).collect()
}

fn judge(
    session: &Session<'_>,
    denial: &Operation,
    validation: &Validation<'_>,
    findings: &mut Findings,
) {
    if !validation.is_decided() {
        return;
    }
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

    /// Returns an Invalid whose bound had passed when this validation began.
    fn within_the_bound(&self, index: &Index<'_>, validation: &Operation) -> Option<&'a Operation> {
        let parameters = index.parameters();
        let first = *self.all.first()?;
        let began_after = |span: Nanos| first.end().saturating_add(span) < validation.call;
        let d = nanos(parameters.d);
        if began_after(d) && index.is_connected(validation, d) {
            return Some(first);
        }
        began_after(nanos(parameters.ttl.saturating_add(parameters.lease))).then_some(first)
    }

    /// Returns an Invalid that must be visible to this validation because its UNLINK succeeded.
    fn at_once(&self, index: &Index<'_>, validation: &Operation) -> Option<&'a Operation> {
        if !index.parameters().single_server {
            return None;
        }
        // Of those that returned before, the last one has the shortest span in which Redis must be
        // undisturbed.
        let before = self.all.partition_point(|op| op.end() < validation.call);
        let last = self.all[self.latest[before.checked_sub(1)?]];
        (!index.redis_disturbed(last.call, validation.end())).then_some(last)
    }
}
