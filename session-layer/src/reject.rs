//! Rejections: why a request does not reach the application, and the answer that says so.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

/// Why the layer rejects a request. It is also found in the extensions of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// No token, or one that is unknown, expired or revoked, or valid ones of different users: 401.
    /// The answer is the same in all these cases, so that it tells nobody which tokens ever existed.
    #[error("a valid session is required")]
    Unauthorized,
    /// Two `Authorization: Bearer` fields, or one with what is no token by its form alone: 400. No store was asked.
    #[error("the Authorization field is not one Bearer token")]
    BadRequest,
    /// Nobody could say whose session it is: 503, to be tried again. It says nothing about the
    /// session, so nobody is logged out: no cookie is cleared.
    #[error("sessions cannot be validated at the moment")]
    Unavailable,
}

impl Rejection {
    /// 401, 400 or 503.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The default answer: `application/problem+json` (RFC 9457), with `WWW-Authenticate: Bearer` for
    /// 401 and `Retry-After: 1` for 503.
    ///
    /// For [`on_reject`](crate::SessionCacheLayer::on_reject) that changes some answers and keeps the
    /// others.
    #[must_use]
    pub fn response(self) -> Response<Bytes> {
        let mut response = problem(self.status(), &self.to_string());
        match self {
            Self::Unauthorized => {
                let bearer = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
            }
            // In seconds. An outage of the stores is over in one, or is for operators to end.
            Self::Unavailable => {
                let soon = HeaderValue::from_static("1");
                response.headers_mut().insert(RETRY_AFTER, soon);
            }
            Self::BadRequest => {}
        }
        response
    }
}

/// A problem document (RFC 9457) without a type of its own.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// A problem document as an answer.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response<Bytes> {
    let document = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail,
    };
    // Strings and a number: serializing them has nothing to fail at.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let problem_json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, problem_json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (rejection, status, field, body) in [
            (
                Rejection::Unauthorized,
                401,
                Some((WWW_AUTHENTICATE, "Bearer")),
                r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"a valid session is required"}"#,
            ),
            (
                Rejection::BadRequest,
                400,
                None,
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"the Authorization field is not one Bearer token"}"#,
            ),
            (
                Rejection::Unavailable,
                503,
                Some((RETRY_AFTER, "1")),
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"sessions cannot be validated at the moment"}"#,
            ),
        ] {
            let response = rejection.response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.body(), body);
            let headers = response.headers();
            assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
            assert_eq!(headers.len(), 1 + usize::from(field.is_some()));
            if let Some((name, value)) = field {
                assert_eq!(headers[name], value);
            }
        }
    }
}
