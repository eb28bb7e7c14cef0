//! One verdict from the results for all tokens of a request.

use crate::engine::validation::{Answers, Source, Validation};
use crate::http::reject::Rejection;
use crate::model::session::Session;

/// Combines the results for all tokens of a request into one, with its source.
///
/// A valid token counts, whatever the results of the others: an unknown result proves nothing
/// against it. Valid tokens of two users are rejected. Without a valid token, one unknown result
/// makes the request unavailable, because that token may be valid.
pub(crate) fn judge(answers: Answers) -> (Result<Session, Rejection>, Source) {
    // Only tokens that were sent are looked up.
    const UNAUTHORIZED: Rejection = Rejection::Unauthorized { token_sent: true };
    let mut valid: Option<Session> = None;
    let mut unavailable = false;
    for validation in answers.validations {
        match (validation, &valid) {
            (Validation::Valid(session), None) => valid = Some(session),
            (Validation::Valid(session), Some(first)) if session.user_id() != first.user_id() => {
                return (Err(UNAUTHORIZED), answers.source);
            }
            (Validation::Valid(_) | Validation::Invalid, _) => {}
            (Validation::Unavailable, _) => unavailable = true,
        }
    }
    match (valid, answers.source) {
        (Some(session), source) => (Ok(session), source),
        (None, source) if unavailable => (Err(Rejection::Unavailable), source),
        (None, source) => (Err(UNAUTHORIZED), source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::Timestamp;
    use crate::model::session::{SessionId, SessionParts};

    fn valid(user: &str, id: u8) -> Validation {
        let at = Timestamp::from_micros(0);
        Validation::Valid(SessionParts::new(SessionId::from_bytes([id; 16]), user, at).into())
    }

    #[test]
    fn several_results_become_one() {
        let (alice, invalid, unknown) =
            (|id| valid("alice", id), Validation::Invalid, Validation::Unavailable);
        let unauthorized = Err(Rejection::Unauthorized { token_sent: true });
        let unavailable = Err(Rejection::Unavailable);
        for (validations, source, expected) in [
            (vec![alice(1)], Source::Cache, (Ok(1), Source::Cache)),
            (vec![invalid.clone()], Source::Store, (unauthorized, Source::Store)),
            (vec![unknown.clone()], Source::None, (unavailable, Source::None)),
            (vec![invalid.clone(), alice(2)], Source::Store, (Ok(2), Source::Store)),
            (vec![alice(1), alice(2)], Source::Cache, (Ok(1), Source::Cache)),
            (vec![alice(1), valid("bob", 2)], Source::Store, (unauthorized, Source::Store)),
            (vec![unknown.clone(), alice(3)], Source::Cache, (Ok(3), Source::Cache)),
            (vec![invalid.clone(), unknown.clone()], Source::None, (unavailable, Source::None)),
            (vec![invalid.clone(), invalid], Source::Store, (unauthorized, Source::Store)),
            (
                vec![alice(1), unknown, valid("bob", 2)],
                Source::Cache,
                (unauthorized, Source::Cache),
            ),
        ] {
            let what = format!("{validations:?}");
            let degraded = false;
            let (verdict, from) = judge(Answers {
                validations: validations.into(),
                source,
                degraded,
                renewals: Vec::new(),
            });
            let verdict = verdict.map(|session| session.id().as_bytes()[0]);
            assert_eq!((verdict, from), expected, "{what}");
        }
    }
}
