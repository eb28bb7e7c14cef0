//! Rejections: the reasons why a request does not reach the application, and their responses.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

/// The reason why the layer rejects a request. The response's extensions contain it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// 401: no token, an unknown, expired or revoked one, or valid ones of different users. All
    /// requests with a token get the same response, which reveals no former token.
    #[error("a valid session is required")]
    Unauthorized {
        /// Whether the request sent a token: a Bearer token or a session cookie, whatever it
        /// contains. `Authorization` of another scheme and other cookies do not count.
        token_sent: bool,
    },
    /// 400: two `Authorization: Bearer` fields, or a malformed one. No store was read.
    #[error("the Authorization field is not one Bearer token")]
    BadRequest,
    /// 503: an outage leaves unknown whether the session is valid, and the client may retry. The
    /// session is unaffected. No user is logged out, and no cookie is cleared.
    #[error("sessions cannot be validated at the moment")]
    Unavailable,
}

impl Rejection {
    /// Returns the status: 401, 400 or 503.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Creates the default response: `application/problem+json` (RFC 9457), with `WWW-Authenticate:
    /// Bearer` for 401 and `Retry-After: 1` for 503. If the request sent a token, the challenge is
    /// `Bearer error="invalid_token"` (RFC 6750, section 3).
    ///
    /// Use it in [`on_reject`](crate::SessionCacheLayer::on_reject) for responses to keep.
    #[must_use]
    pub fn response(self) -> Response<Bytes> {
        let mut response = problem(self.status(), &self.to_string());
        match self {
            Self::Unauthorized { token_sent } => {
                // RFC 6750, section 3.1: no error code for a request without credentials.
                let challenge =
                    if token_sent { "Bearer error=\"invalid_token\"" } else { "Bearer" };
                let challenge = HeaderValue::from_static(challenge);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            // In seconds. A short outage is over by then, and a long one needs an operator.
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

pub(crate) fn problem(status: StatusCode, detail: &str) -> Response<Bytes> {
    let document = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail,
    };
    // Serializing strings and a number cannot fail.
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
    fn rejections_have_their_documented_responses() {
        const UNAUTHORIZED: &str = concat!(
            r#"{"type":"about:blank","title":"Unauthorized","status":401,"#,
            r#""detail":"a valid session is required"}"#,
        );
        for (rejection, status, field, body) in [
            (
                Rejection::Unauthorized { token_sent: false },
                401,
                Some((WWW_AUTHENTICATE, "Bearer")),
                UNAUTHORIZED,
            ),
            (
                Rejection::Unauthorized { token_sent: true },
                401,
                Some((WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")),
                UNAUTHORIZED,
            ),
            (
                Rejection::BadRequest,
                400,
                None,
                concat!(
                    r#"{"type":"about:blank","title":"Bad Request","status":400,"#,
                    r#""detail":"the Authorization field is not one Bearer token"}"#,
                ),
            ),
            (
                Rejection::Unavailable,
                503,
                Some((RETRY_AFTER, "1")),
                concat!(
                    r#"{"type":"about:blank","title":"Service Unavailable","status":503,"#,
                    r#""detail":"sessions cannot be validated at the moment"}"#,
                ),
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
