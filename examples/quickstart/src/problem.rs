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
    /// A response with this status and detail.
    Status(StatusCode, String),
    /// 503 with `Retry-After` and this detail. No cookie changes, because the session may be
    /// active.
    Outage(&'static str),
}

const NOT_ENDED: &str = "the session could not be ended and may still be active: try again";

impl Problem {
    pub(crate) fn bad_input(detail: impl Into<String>) -> Self {
        Self::Status(StatusCode::BAD_REQUEST, detail.into())
    }

    /// Creates a 404, whether the session is unknown or another user's.
    pub(crate) fn not_found() -> Self {
        Self::Status(StatusCode::NOT_FOUND, "not found".to_owned())
    }
}

/// Returns the layer's response before `/logout` if an outage hides whether there is a session.
pub(crate) fn logout_rejected(_request: &Parts, rejection: &Rejection) -> Response<Bytes> {
    match rejection {
        Rejection::Unavailable => outage_answer(NOT_ENDED),
        other => other.response(),
    }
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
        Problem::Outage(_) => Problem::Outage(NOT_ENDED),
        other @ Problem::Status(..) => other,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Input(input) => Self::bad_input(input.to_string()),
            Error::LoginSuperseded => Self::Status(
                StatusCode::CONFLICT,
                "all sessions of this user were ended during this login: log in again".to_owned(),
            ),
            outage if outage.is_outage() => {
                // session-layer logs the beginning and the end of an outage.
                tracing::debug!(error = chain(&outage), "responded with 503");
                Self::Outage("sessions cannot be created or listed at the moment: try again")
            }
            other => {
                tracing::error!(error = chain(&other), "responded with 500");
                let detail = "an unexpected error occurred: see the log";
                Self::Status(StatusCode::INTERNAL_SERVER_ERROR, detail.to_owned())
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Outage(detail) => outage_answer(detail).map(Body::from),
            Self::Status(status, detail) => {
                let json = HeaderValue::from_static("application/problem+json");
                let body = Json(document(status, &detail));
                (status, [(header::CONTENT_TYPE, json)], body).into_response()
            }
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
