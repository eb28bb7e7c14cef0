//! Answers against what was expected: pure functions.

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use session_layer::{Reach, Tier};

use super::nodes::tier;
use crate::{
    app::Answer,
    check::{Finding, Status},
};

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected<'a> {
    /// 200, with this user and data, from this tier if one is named.
    Valid {
        user: &'a str,
        data: &'a str,
        tier: Option<Tier>,
    },
    /// A rejection with this status, as `application/problem+json`.
    Rejected(u16),
}

/// A session of `verify`'s own user.
pub(super) const USER: &str = "verify";

impl<'a> Expected<'a> {
    pub(super) fn data(data: &'a str) -> Self {
        Self::Valid {
            user: USER,
            data,
            tier: None,
        }
    }

    pub(super) fn from(self, wanted: Tier) -> Self {
        match self {
            Self::Valid { user, data, .. } => Self::Valid {
                user,
                data,
                tier: Some(wanted),
            },
            rejected @ Self::Rejected(_) => rejected,
        }
    }

    /// What is wrong with an answer; `None` if nothing is.
    pub(super) fn objection(&self, seen: &Answer) -> Option<String> {
        let status = match self {
            Self::Valid { .. } => 200,
            Self::Rejected(status) => *status,
        };
        if seen.status != status {
            let by = tier(seen).map_or("", Tier::as_str);
            let by = match by {
                "" => String::new(),
                by => format!(" ({by})"),
            };
            return Some(format!("answered {}{by} instead of {status}", seen.status));
        }
        match self {
            Self::Valid { user, data, tier } => valid(seen, user, data, *tier),
            Self::Rejected(status) => rejected(seen, *status),
        }
    }
}

fn valid(seen: &Answer, user: &str, data: &str, wanted: Option<Tier>) -> Option<String> {
    // The data is a JSON string in the session, and that text a string in our answer.
    let data = serde_json::Value::from(data).to_string();
    if seen.body["user"] != user {
        return Some("answered for another user".to_owned());
    }
    if seen.body["data"] != *data {
        return Some(format!(
            "answered with the data {} instead of {data}",
            seen.body["data"].as_str().unwrap_or("of no session")
        ));
    }
    let by = tier(seen).map_or("nobody", Tier::as_str);
    match wanted {
        Some(wanted) if by != wanted.as_str() => Some(format!(
            "the right answer, but given by `{by}` instead of `{}`",
            wanted.as_str()
        )),
        _ => None,
    }
}

fn rejected(seen: &Answer, status: u16) -> Option<String> {
    let field = |name| {
        let value = seen.headers.get(name)?;
        value.to_str().ok()
    };
    if field(CONTENT_TYPE) != Some("application/problem+json") {
        return Some(format!(
            "{status} with the content type {} instead of application/problem+json",
            field(CONTENT_TYPE).unwrap_or("of none")
        ));
    }
    if seen.body["status"] != status {
        return Some(format!("{status}, and its document says {}", seen.body));
    }
    match status {
        401 if field(WWW_AUTHENTICATE) != Some("Bearer") => {
            Some("401 without `WWW-Authenticate: Bearer`".to_owned())
        }
        503 if field(RETRY_AFTER).is_none_or(|after| after.parse::<u32>().is_err()) => {
            Some("503 without `Retry-After`".to_owned())
        }
        _ => None,
    }
}

/// One answer, or several that must all be alike; each with who was asked.
pub(super) fn answers<'a>(
    what: &str,
    expected: &Expected<'_>,
    seen: impl IntoIterator<Item = (&'a str, &'a Answer)>,
    help: &str,
) -> Finding {
    let objections: Vec<String> = seen
        .into_iter()
        .filter_map(|(who, seen)| Some(format!("{who} {}", expected.objection(seen)?)))
        .collect();
    if objections.is_empty() {
        Finding::ok(what)
    } else {
        Finding::failed(what, objections.join("; "), help)
    }
}

/// What is found after a change that promised only a bound can't be called broken before it has passed.
pub(super) fn after(reach: Reach, mut finding: Finding) -> Finding {
    if finding.status == Status::Failed && matches!(reach, Reach::Committed { .. }) {
        finding.status = Status::Warning;
    }
    finding
}

/// How far a change reached, in words.
pub(super) fn reached(reach: Reach) -> String {
    match reach {
        Reach::Propagated => "propagated".to_owned(),
        Reach::Committed { at_most, .. } => format!("committed, {} s at most", at_most.as_secs()),
        _ => "nothing was changed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn page(user: &str, data: &str) -> Answer {
        Answer {
            status: 200,
            body: json!({ "user": user, "data": format!("\"{data}\"") }),
            ..Answer::default()
        }
    }

    fn problem(status: u16, fields: &[(http::HeaderName, &str)]) -> Answer {
        let mut answer = Answer {
            status,
            body: json!({ "status": status }),
            ..Answer::default()
        };
        for (name, value) in fields {
            answer.headers.insert(name, value.parse().unwrap());
        }
        answer
    }

    const JSON: (http::HeaderName, &str) = (CONTENT_TYPE, "application/problem+json");

    #[test]
    fn a_valid_answer_is_of_the_user_with_the_data_by_the_tier() {
        let expected = Expected::data("one");
        assert_eq!(expected.objection(&page(USER, "one")), None);
        for (seen, objection) in [
            (page("mallory", "one"), "another user"),
            (page(USER, "two"), "the data \"two\" instead of \"one\""),
            (problem(401, &[]), "answered 401 instead of 200"),
            (problem(503, &[]), "answered 503"),
        ] {
            let said = expected.objection(&seen).unwrap();
            assert!(said.contains(objection), "{said}");
        }
        let said = expected.from(Tier::Cache).objection(&page(USER, "one"));
        assert!(said.unwrap().contains("by `nobody` instead of `hit`"));
    }

    #[test]
    fn a_rejection_has_its_form() {
        let bearer = (WWW_AUTHENTICATE, "Bearer");
        let soon = (RETRY_AFTER, "1");
        for (status, fields, objection) in [
            (400, vec![JSON], None),
            (400, vec![], Some("content type")),
            (401, vec![JSON, bearer.clone()], None),
            (401, vec![JSON], Some("WWW-Authenticate")),
            (503, vec![JSON, soon], None),
            (503, vec![JSON], Some("Retry-After")),
            (503, vec![JSON, (RETRY_AFTER, "soon")], Some("Retry-After")),
        ] {
            let said = Expected::Rejected(status).objection(&problem(status, &fields));
            match objection {
                None => assert_eq!(said, None),
                Some(objection) => assert!(said.unwrap().contains(objection)),
            }
        }
        assert!(
            Expected::Rejected(401)
                .objection(&page(USER, "one"))
                .is_some()
        );
    }

    #[test]
    fn a_bound_that_has_not_passed_is_not_broken() {
        let (good, stale) = (
            problem(401, &[JSON, (WWW_AUTHENTICATE, "Bearer")]),
            page(USER, "one"),
        );
        let of = |seen| answers("gone", &Expected::Rejected(401), [("node B", seen)], "help");
        assert_eq!(of(&good).status, Status::Ok);
        let bound = Duration::from_secs(302);
        let committed = Reach::Committed {
            within: bound,
            at_most: bound,
        };
        assert_eq!(after(Reach::Propagated, of(&stale)).status, Status::Failed);
        assert_eq!(after(committed, of(&stale)).status, Status::Warning);
        assert_eq!(after(committed, of(&good)).status, Status::Ok);
    }
}
