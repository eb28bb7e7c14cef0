//! The requests of the quickstart and their responses, for any store and cache.

mod endings;
mod login;
mod operators;
mod requests;

use serde_json::{Value, json};

use super::process::App;
use crate::examples::http_client::Answer;

type Outcome = std::io::Result<()>;

/// A token like ours that was never issued.
const UNKNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

pub(crate) async fn all(app: &App) -> Outcome {
    login::page(app).await?;
    login::login(app).await?;
    login::bad_logins(app).await?;
    requests::me(app).await?;
    requests::without_a_valid_session(app).await?;
    endings::own_and_other_sessions(app).await?;
    endings::many_sessions(app).await?;
    endings::logout(app).await?;
    endings::logout_everywhere(app).await?;
    endings::login_replaces(app).await?;
    operators::health(app).await?;
    operators::admin(app).await?;
    operators::no_such_route(app).await
}

/// Asserts a problem document with this status.
pub(crate) fn assert_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.json()["status"], status, "{answer:?}");
}

/// Asserts a 503 that keeps the cookie and says when to retry.
pub(crate) fn assert_outage(answer: &Answer) {
    assert_problem(answer, 503);
    let after = answer.field("retry-after").and_then(|after| after.parse::<u32>().ok());
    assert!(after.is_some(), "{answer:?}");
    assert_eq!(answer.field("set-cookie"), None, "{answer:?}");
}

/// Asserts the 401 of a request that sent a token, whatever is wrong with it.
pub(crate) fn assert_unauthorized(answer: &Answer) {
    assert_401(answer, "Bearer error=\"invalid_token\"");
}

/// Asserts the 401 of a request that sent no token.
pub(crate) fn assert_no_token(answer: &Answer) {
    assert_401(answer, "Bearer");
}

/// Asserts a 401 with this challenge. All 401 are alike otherwise.
fn assert_401(answer: &Answer, challenge: &str) {
    assert_problem(answer, 401);
    assert_eq!(answer.field("www-authenticate"), Some(challenge), "{answer:?}");
    assert_eq!(answer.json()["detail"], "a valid session is required", "{answer:?}");
    assert_eq!(answer.field("set-cookie"), None, "{answer:?}");
}

pub(crate) fn assert_cleared(answer: &Answer) {
    let cookie = answer.field("set-cookie").unwrap_or_default();
    assert!(cookie.starts_with("session=;") && cookie.contains("Max-Age=0"), "{answer:?}");
    assert!(cookie.contains("Path=/") && cookie.contains("HttpOnly"), "{answer:?}");
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> =
        value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// Asserts the response to a request that revoked sessions.
pub(crate) fn assert_revoked(answer: &Answer, visibility: &str) {
    let expected = (200, json!({ "revoked": visibility }));
    assert_eq!((answer.status, answer.json()), expected, "{answer:?}");
}

/// Asserts a time in RFC 3339 and UTC.
fn assert_moment(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    assert!(text.parse::<session_layer::Timestamp>().is_ok() && text.ends_with('Z'), "{value}");
}
