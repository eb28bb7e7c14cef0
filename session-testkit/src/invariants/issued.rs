//! R4: a token that was not issued is never Valid.

use std::collections::HashMap;

use super::{
    findings::Findings,
    format::Named,
    index::{Index, Session, proof},
};
use crate::history::{Creation, Nanos, Op};

/// Checks R4: a token that was not issued is never Valid, whatever Redis contains. This requires a
/// sealing key.
///
/// A violation is a Valid for one of these:
///
/// - a random token,
/// - a session whose login was refused,
/// - a token whose login or rotation had not begun by the result.
///
/// The check does not apply to a history with planted entries and without a sealing key.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("results about tokens that were never issued");
    for validation in index.random.iter().filter(|each| each.is_decided()) {
        findings.examine(validation.is_valid(), || {
            ("a token that was never issued was Valid".to_owned(), proof([validation.op]))
        });
    }
    for session in &index.sessions {
        let refused = matches!(session.answer, Some(Creation::Refused(_)));
        let issued = issued(session);
        let answers = session.validations.iter();
        for validation in answers.filter(|each| each.is_decided()) {
            let early = issued.get(&validation.token).is_some_and(|at| validation.op.end() < *at);
            if !(refused || early) {
                continue;
            }
            findings.examine(validation.is_valid(), || {
                let name = Named(session.number, validation.token);
                let why =
                    if refused { "whose login was refused" } else { "which was not issued yet" };
                (format!("{name}, {why}, was Valid"), proof([session.create, validation.op]))
            });
        }
    }
    findings
}

/// Returns when the operation that issued each token began.
fn issued(session: &Session<'_>) -> HashMap<u32, Nanos> {
    let rotations = session.changes.iter().filter_map(|each| match each.op {
        Op::Rotate { new_token, .. } => Some((new_token?, each.call)),
        _ => None,
    });
    std::iter::once((0, session.create.call)).chain(rotations).collect()
}
