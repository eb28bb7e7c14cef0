//! R4: a token that was not issued is never Valid.

use super::{
    findings::Findings,
    index::{Index, proof},
};
use crate::history::Creation;

/// R4. *Never Valid for a token that was not issued, whatever Redis contains (with a key to seal; without
/// one Redis is trusted).*
///
/// Broken by a Valid for a random token, or for a session whose login was refused. (Entries planted in
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
        if !matches!(session.answer, Some(Creation::Refused(_))) {
            continue;
        }
        for validation in session
            .validations
            .iter()
            .filter(|each| each.says_something())
        {
            findings.examined += 1;
            if validation.is_valid() {
                findings.broken(|| {
                    let session_number = session.number;
                    (
                        format!("session {session_number}, whose login was refused, was honoured"),
                        proof([session.create, validation.op]),
                    )
                });
            }
        }
    }
    findings
}
