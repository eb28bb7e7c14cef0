//! Error responses as `application/problem+json` (RFC 9457), like those of the layer.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use session_layer::{Error, Rejection};

/// The error of a handler.
#[derive(Debug)]
pub(crate) enum Problem {
    /// 400 with the reason.
    BadInput(String),
    /// 404, whether the session is unknown or another user's.
    NotFound,
    /// 409: the user must log in again.
    Superseded,
    /// 503 with `Retry-After`. No cookie changes, because the session may be active.
    Unavailable,
    /// 503 for a session that could not be ended.
    NotEnded,
    /// 500: a bug in this program.
    Unexpected,
}

impl Problem {
    pub(crate) fn bad_input(detail: impl Into<String>) -> Self {
        Self::BadInput(detail.into())
    }
}

/// Returns the layer's response before `/logout` if an outage hides whether there is a session.
pub(crate) fn logout_rejected(_request: &Parts, rejection: &Rejection) -> Response<Bytes> {
    match rejection {
        Rejection::Unavailable => not_ended_answer(),
        other => other.response(),
    }
}

fn not_ended_answer() -> Response<Bytes> {
    outage_answer("the session could not be ended and may still be active: try again")
}

/// Returns the layer's response to an outage with another detail, so that clients handle only one.
fn outage_answer(detail: &str) -> Response<Bytes> {
    let outage = Rejection::Unavailable;
    let document = document(outage.status(), detail);
    // Strings and a number can always be serialized.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    outage.response().map(|_| Bytes::from(body))
}

/// Converts the error of a route that ends sessions.
pub(crate) fn not_ended(error: Error) -> Problem {
    match Problem::from(error) {
        Problem::Unavailable => Problem::NotEnded,
        other => other,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Input(input) => Self::BadInput(input.to_string()),
            Error::LoginSuperseded => Self::Superseded,
            outage if outage.is_outage() => {
                // session-layer logs the beginning and the end of an outage.
                tracing::debug!(error = chain(&outage), "responded with 503");
                Self::Unavailable
            }
            other => {
                tracing::error!(error = chain(&other), "responded with 500");
                Self::Unexpected
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::BadInput(detail) => problem(StatusCode::BAD_REQUEST, &detail),
            Self::NotFound => problem(StatusCode::NOT_FOUND, "not found"),
            Self::Superseded => problem(
                StatusCode::CONFLICT,
                "all sessions of this user were ended during this login: log in again",
            ),
            Self::Unavailable => {
                outage_answer("sessions cannot be created or listed at the moment: try again")
                    .map(Body::from)
            }
            Self::NotEnded => not_ended_answer().map(Body::from),
            Self::Unexpected => problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "an unexpected error occurred: see the log",
            ),
        }
    }
}

/// The body of an error response, in reading order.
#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: Option<&'static str>,
    status: u16,
    detail: &'a str,
}

fn document(status: StatusCode, detail: &str) -> Document<'_> {
    Document {
        r#type: "about:blank",
        title: status.canonical_reason(),
        status: status.as_u16(),
        detail,
    }
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let body = Json(document(status, detail));
    let json = HeaderValue::from_static("application/problem+json");
    (status, [(header::CONTENT_TYPE, json)], body).into_response()
}

/// Returns an error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
