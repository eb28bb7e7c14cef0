//! The verdict on responses. It consists of pure functions.

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use session_layer::{Source, Visibility};

use super::nodes::source;
use crate::app::Answer;
use session_tools::check::{Finding, Status};

/// An expected response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected<'a> {
    /// 200 with this user and data, from this source if there is one.
    Valid { user: &'a str, data: &'a str, source: Option<Source> },
    /// A rejection with this status, as `application/problem+json`.
    Rejected(u16),
}

/// The challenges of a 401 to a request without a token, and to a request that sent one.
const CHALLENGES: [&str; 2] = ["Bearer", "Bearer error=\"invalid_token\""];

/// The user of `verify`'s sessions.
pub(super) const USER: &str = "verify";

impl<'a> Expected<'a> {
    pub(super) fn data(data: &'a str) -> Self {
        Self::Valid { user: USER, data, source: None }
    }

    pub(super) fn from(self, expected: Source) -> Self {
        match self {
            Self::Valid { user, data, .. } => Self::Valid { user, data, source: Some(expected) },
            rejected @ Self::Rejected(_) => rejected,
        }
    }

    /// Returns the difference between a response and the expected one, or `None`.
    pub(super) fn objection(&self, seen: &Answer) -> Option<String> {
        let status = match self {
            Self::Valid { .. } => 200,
            Self::Rejected(status) => *status,
        };
        if seen.status != status {
            let by = source(seen).map_or("", Source::as_str);
            let by = match by {
                "" => String::new(),
                by => format!(" ({by})"),
            };
            return Some(format!("got {}{by} instead of {status}", seen.status));
        }
        match self {
            Self::Valid { user, data, source } => valid(seen, user, data, *source),
            Self::Rejected(status) => rejected(seen, *status),
        }
    }
}

fn valid(seen: &Answer, user: &str, data: &str, expected: Option<Source>) -> Option<String> {
    // The session's data is a JSON string, and the response contains that text as a string.
    let data = serde_json::Value::from(data).to_string();
    if seen.body["user"] != user {
        return Some("got another user".to_owned());
    }
    if seen.body["data"] != *data {
        return Some(format!(
            "got the data {} instead of {data}",
            seen.body["data"].as_str().unwrap_or("without a session")
        ));
    }
    let by = source(seen).map_or("none", Source::as_str);
    match expected {
        Some(expected) if by != expected.as_str() => Some(format!(
            "got the right response, but from `{by}` instead of `{}`",
            expected.as_str()
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
            "got {status} with the content type {} instead of application/problem+json",
            field(CONTENT_TYPE).unwrap_or("(none)")
        ));
    }
    if seen.body["status"] != status {
        return Some(format!("got {status}, but its document is {}", seen.body));
    }
    match status {
        401 if !field(WWW_AUTHENTICATE).is_some_and(|field| CHALLENGES.contains(&field)) => {
            Some("got 401 without `WWW-Authenticate: Bearer`".to_owned())
        }
        503 if field(RETRY_AFTER).is_none_or(|after| after.parse::<u32>().is_err()) => {
            Some("got 503 without `Retry-After`".to_owned())
        }
        _ => None,
    }
}

/// Judges one response, or several that must all match. Each has the name of its node or request.
pub(super) fn judge<'a>(
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
        Finding::failed(what, objections.join(", "), help)
    }
}

/// Downgrades a failure after a `Committed` change, because its bound may not have passed.
pub(super) fn after(visibility: Visibility, mut finding: Finding) -> Finding {
    if finding.status == Status::Failed && matches!(visibility, Visibility::Committed { .. }) {
        finding.status = Status::Warning;
    }
    finding
}

/// Describes the visibility of a change.
pub(super) fn described(visibility: Visibility) -> String {
    match visibility {
        Visibility::Propagated => "propagated".to_owned(),
        Visibility::Committed { at_most, .. } => {
            format!("committed, within {} s at most", at_most.as_secs())
        }
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
        let mut answer = Answer { status, body: json!({ "status": status }), ..Answer::default() };
        for (name, value) in fields {
            answer.headers.insert(name, value.parse().unwrap());
        }
        answer
    }

    const JSON: (http::HeaderName, &str) = (CONTENT_TYPE, "application/problem+json");

    #[test]
    fn valid_response_has_user_data_and_source() {
        let expected = Expected::data("one");
        assert_eq!(expected.objection(&page(USER, "one")), None);
        for (seen, objection) in [
            (page("mallory", "one"), "another user"),
            (page(USER, "two"), "the data \"two\" instead of \"one\""),
            (problem(401, &[]), "got 401 instead of 200"),
            (problem(503, &[]), "got 503"),
        ] {
            let found = expected.objection(&seen).unwrap();
            assert!(found.contains(objection), "{found}");
        }
        let found = expected.from(Source::Cache).objection(&page(USER, "one"));
        assert!(found.unwrap().contains("from `none` instead of `hit`"));
    }

    #[test]
    fn rejection_has_content_type_and_headers() {
        let bearer = (WWW_AUTHENTICATE, "Bearer");
        let invalid_token = (WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"");
        let basic = (WWW_AUTHENTICATE, "Basic");
        let soon = (RETRY_AFTER, "1");
        for (status, fields, objection) in [
            (400, vec![JSON], None),
            (400, vec![], Some("content type")),
            (401, vec![JSON, bearer.clone()], None),
            (401, vec![JSON, invalid_token], None),
            (401, vec![JSON, basic], Some("WWW-Authenticate")),
            (401, vec![JSON], Some("WWW-Authenticate")),
            (503, vec![JSON, soon], None),
            (503, vec![JSON], Some("Retry-After")),
            (503, vec![JSON, (RETRY_AFTER, "soon")], Some("Retry-After")),
        ] {
            let found = Expected::Rejected(status).objection(&problem(status, &fields));
            match objection {
                None => assert_eq!(found, None),
                Some(objection) => assert!(found.unwrap().contains(objection)),
            }
        }
        assert!(Expected::Rejected(401).objection(&page(USER, "one")).is_some());
    }

    #[test]
    fn failure_within_the_bound_is_a_warning() {
        let (good, stale) =
            (problem(401, &[JSON, (WWW_AUTHENTICATE, "Bearer")]), page(USER, "one"));
        let of = |seen| judge("gone", &Expected::Rejected(401), [("node B", seen)], "help");
        assert_eq!(of(&good).status, Status::Ok);
        let bound = Duration::from_secs(302);
        let committed = Visibility::Committed { within: bound, at_most: bound };
        assert_eq!(after(Visibility::Propagated, of(&stale)).status, Status::Failed);
        assert_eq!(after(committed, of(&stale)).status, Status::Warning);
        assert_eq!(after(committed, of(&good)).status, Status::Ok);
    }
}
