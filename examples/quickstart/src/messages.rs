//! The JSON of every route: requests and responses.

use std::time::Duration;

use axum::extract::{Form, FromRequest, Json, Request};
use axum::http::header;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use session_layer::{SessionId, Timestamp, Visibility};

use crate::problem::Problem;

/// The body of `POST /login`, a form or JSON. Any other body is a 400.
#[derive(Deserialize)]
pub(crate) struct Login {
    pub(crate) user: String,
    /// "Remember me": whether the cookie outlives the browser.
    #[serde(default)]
    pub(crate) remember: bool,
}

impl<S: Send + Sync> FromRequest<S> for Login {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = if says_json(&request) {
            // Serde would also accept an array.
            let json = Json::<serde_json::Map<String, Value>>::from_request(request, state).await;
            json.map_err(|e| e.body_text()).and_then(|Json(object)| {
                serde_json::from_value(Value::Object(object)).map_err(|e| e.to_string())
            })
        } else {
            let form = Form::<Self>::from_request(request, state).await;
            form.map_err(|e| e.body_text()).and_then(|Form(login)| login.with_valid_user())
        };
        read.map_err(|why| {
            Problem::bad_input(format!(
                r#"send a form with user=NAME, or JSON {{"user":"NAME"}} ({why})"#
            ))
        })
    }
}

impl Login {
    /// Checks that the user's name was valid UTF-8. The decoder of forms replaces invalid bytes by
    /// this character, which could turn two users into one.
    fn with_valid_user(self) -> Result<Self, String> {
        if self.user.contains(char::REPLACEMENT_CHARACTER) {
            return Err("the user is no valid UTF-8".to_owned());
        }
        Ok(self)
    }
}

fn says_json(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.to_ascii_lowercase().contains("json"))
}

/// The response to `POST /login`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoggedIn {
    /// The token for clients without cookies: `Authorization: Bearer TOKEN`. It is returned only
    /// once.
    pub(crate) token: String,
    pub(crate) session_id: SessionId,
    pub(crate) expires_at: Timestamp,
}

/// The response to `GET /me`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Me {
    pub(crate) user: String,
    pub(crate) session_id: SessionId,
    pub(crate) expires_at: Timestamp,
}

/// The query of `GET /sessions`.
#[derive(Deserialize)]
pub(crate) struct After {
    /// The end of the previous page, from its `Link`. Defaults to the first page.
    pub(crate) after: Option<String>,
}

/// A session in the response to `GET /sessions`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    pub(crate) session_id: SessionId,
    pub(crate) created_at: Timestamp,
    pub(crate) last_seen_at: Timestamp,
    /// Whether it is the session of this request.
    pub(crate) current: bool,
}

/// The response to routes that end sessions: when no node accepts them any more.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Revoked {
    revoked: &'static str,
    /// The time for nodes that are connected to Postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    within_ms: Option<u64>,
    /// The time for every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most_ms: Option<u64>,
    /// The number of active sessions, if it may be more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
}

impl Revoked {
    pub(crate) fn reaching(visibility: Visibility) -> Self {
        let (revoked, bounds) = match visibility {
            Visibility::Nothing => ("nothing", None),
            Visibility::Propagated => ("propagated", None),
            Visibility::Committed { within, at_most } => ("committed", Some((within, at_most))),
            // Any visibility that a later version adds is at least committed.
            _ => ("committed", None),
        };
        Self {
            revoked,
            within_ms: bounds.map(|(within, _)| millis(within)),
            at_most_ms: bounds.map(|(_, at_most)| millis(at_most)),
            count: None,
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
