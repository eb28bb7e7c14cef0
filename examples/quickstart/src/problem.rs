//! Answers that are errors, as `application/problem+json` (RFC 9457), like those of the layer.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use session_layer::{Error, Rejection};

/// Why a handler could not do what was asked.
#[derive(Debug)]
pub(crate) enum Problem {
    /// 400, and what is wrong.
    BadInput(String),
    /// 404: unknown or someone else's, alike.
    NotFound,
    /// 409: log in again.
    Superseded,
    /// 503 with `Retry-After`. No cookie is touched: the session may well be alive.
    Unavailable,
    /// The same, of what was to end.
    NotEnded,
    /// 500: a bug in here.
    Unexpected,
}

impl Problem {
    pub(crate) fn bad_input(detail: impl Into<String>) -> Self {
        Self::BadInput(detail.into())
    }
}

/// The layer's answer before `/logout`, where nobody could say whether there is a session to end.
pub(crate) fn logout_rejected(_request: &Parts, rejection: &Rejection) -> Response<Bytes> {
    match rejection {
        Rejection::Unavailable => not_ended_answer(),
        other => other.response(),
    }
}

fn not_ended_answer() -> Response<Bytes> {
    outage_answer("the session could not be ended, and may still be alive: try again")
}

/// The layer's own answer to an outage, but for what it says: clients need to know only one.
fn outage_answer(detail: &str) -> Response<Bytes> {
    let outage = Rejection::Unavailable;
    let document = document(outage.status(), detail);
    // Strings and a number: serializing them has nothing to fail at.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    outage.response().map(|_| Bytes::from(body))
}

/// Of ending sessions: nobody looked for a session to be validated.
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
                // session-layer says in the log when an outage begins and when it is over.
                tracing::debug!(error = chain(&outage), "a request was answered with 503");
                Self::Unavailable
            }
            other => {
                tracing::error!(error = chain(&other), "a request was answered with 500");
                Self::Unexpected
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::BadInput(detail) => problem(StatusCode::BAD_REQUEST, &detail),
            Self::NotFound => problem(StatusCode::NOT_FOUND, "there is no such thing here"),
            Self::Superseded => problem(
                StatusCode::CONFLICT,
                "all sessions of this user were ended while this login was under way: log in again",
            ),
            Self::Unavailable => {
                outage_answer("sessions cannot be created or listed at the moment: try again")
                    .map(Body::from)
            }
            Self::NotEnded => not_ended_answer().map(Body::from),
            Self::Unexpected => problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "this should not have happened; the log says more",
            ),
        }
    }
}

/// The body, in the order in which people read it.
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

/// An error and what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
