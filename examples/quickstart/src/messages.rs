//! What clients send and what they get: the JSON of every route.

use std::time::Duration;

use axum::extract::{Form, FromRequest, Json, Request};
use axum::http::header;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use session_layer::{Reach, SessionId, Timestamp};

use crate::problem::Problem;

/// What `POST /login` reads: a form or JSON. Anything else is a 400, whatever is wrong with it.
#[derive(Deserialize)]
pub(crate) struct Login {
    pub(crate) user: String,
    /// "Remember me": the cookie outlives the browser.
    #[serde(default)]
    pub(crate) remember: bool,
}

impl<S: Send + Sync> FromRequest<S> for Login {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = if says_json(&request) {
            // An object, and nothing else that serde would take for one.
            let json = Json::<serde_json::Map<String, Value>>::from_request(request, state).await;
            json.map_err(|e| e.body_text()).and_then(|Json(object)| {
                serde_json::from_value(Value::Object(object)).map_err(|e| e.to_string())
            })
        } else {
            let form = Form::<Self>::from_request(request, state).await;
            form.map(|Form(login)| login).map_err(|e| e.body_text())
        };
        read.map_err(|why| {
            Problem::bad_input(format!(
                r#"send a form with user=NAME, or JSON {{"user":"NAME"}} ({why})"#
            ))
        })
    }
}

fn says_json(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.to_ascii_lowercase().contains("json"))
}

/// `POST /login`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoggedIn {
    /// For clients without cookies: `Authorization: Bearer TOKEN`. It is told this once.
    pub(crate) token: String,
    pub(crate) session_id: SessionId,
    pub(crate) expires_at: Timestamp,
}

/// `GET /me`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Me {
    pub(crate) user: String,
    pub(crate) session_id: SessionId,
    pub(crate) expires_at: Timestamp,
}

/// One of `GET /sessions`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    pub(crate) session_id: SessionId,
    pub(crate) created_at: Timestamp,
    pub(crate) last_seen_at: Timestamp,
    /// Is it the one that asks?
    pub(crate) current: bool,
}

/// What ends sessions: from when on no node honours them any more.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Revoked {
    revoked: &'static str,
    /// For nodes in touch with Postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    within_ms: Option<u64>,
    /// For every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most_ms: Option<u64>,
    /// How many were alive, where it could be more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
}

impl Revoked {
    pub(crate) fn reaching(reach: Reach) -> Self {
        let (revoked, bounds) = match reach {
            Reach::Nothing => ("nothing", None),
            Reach::Propagated => ("propagated", None),
            Reach::Committed { within, at_most } => ("committed", Some((within, at_most))),
            // A reach of a later version promises no less than that it is committed.
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
