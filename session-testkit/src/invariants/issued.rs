//! R4: a token that was not issued is never Valid.

use std::collections::HashMap;

use super::{
    findings::Findings,
    index::{Index, Kind, Session, proof},
    words::Named,
};
use crate::history::{Creation, Nanos};

/// R4. *Never Valid for a token that was not issued, whatever Redis contains (with a key to seal; without
/// one Redis is trusted).*
///
/// Broken by a Valid for a random token, for a session whose login was refused, or for a token answered
/// before the login or rotation that gave it out had begun. (Entries planted in
/// Redis are a fault of the schedule; a history of Redis without sealing and with planted entries is not
/// one to check for this.)
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("answers about tokens that were never issued");
    for validation in index.random.iter().filter(|each| each.says_something()) {
        findings.examined += 1;
        if validation.is_valid() {
            findings.broken(|| {
                (
                    "a token that was never issued was honoured".to_owned(),
                    proof([validation.op]),
                )
            });
        }
    }
    for session in &index.sessions {
        let refused = matches!(session.answer, Some(Creation::Refused(_)));
        let issued = issued(session);
        let answers = session.validations.iter();
        for validation in answers.filter(|each| each.says_something()) {
            let early = issued
                .get(&validation.token)
                .is_some_and(|at| validation.op.end() < *at);
            if !(refused || early) {
                continue;
            }
            findings.examined += 1;
            if validation.is_valid() {
                findings.broken(|| {
                    let name = Named(session.number, validation.token);
                    let why = if refused {
                        "whose login was refused"
                    } else {
                        "which was not given out yet"
                    };
                    (
                        format!("{name}, {why}, was honoured"),
                        proof([session.create, validation.op]),
                    )
                });
            }
        }
    }
    findings
}

/// When the operation that gave out each token began.
fn issued(session: &Session<'_>) -> HashMap<u32, Nanos> {
    let rotations = session.changes.iter().filter_map(|each| match each.kind {
        Kind::Rotate { new, .. } => Some((new?, each.op.call)),
        Kind::Update { .. } | Kind::Revoke | Kind::RevokeAll => None,
    });
    std::iter::once((0, session.create.call))
        .chain(rotations)
        .collect()
}
