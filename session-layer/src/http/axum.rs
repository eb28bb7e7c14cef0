//! The extractors for axum: [`Session`], and `Option<Session>` under `.optional()`.

use std::convert::Infallible;

use ::axum::body::Body;
use ::axum::extract::{FromRequestParts, OptionalFromRequestParts};
use ::axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::StatusCode;
use http::request::Parts;

use crate::http::config::Mark;
use crate::http::cookie::SetCookie;
use crate::http::reject::{Rejection, problem};
use crate::model::session::Session;
use crate::sessions::request_sessions::RequestSessions;

/// The reason why no [`Session`] could be extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SessionRejection {
    /// The request lacks the required session: 401, the same response as the layer's.
    #[error("a valid session is required")]
    NoSession {
        /// The same as in [`Rejection::Unauthorized`].
        token_sent: bool,
    },
    /// No layer validated the request: 500, an error in the routes.
    #[error(
        "the request's session was not validated because no SessionCacheLayer covers this route: \
         add `.layer(SessionCacheLayer::new(sessions))` to the Router after its routes"
    )]
    NoLayer,
    /// The layer skipped this route: 500, an error in the routes.
    #[error(
        "the request's session was not validated because SessionCacheLayer skipped it: let the \
         predicate given to `.skip(…)` return false for this route, with `.optional()` if the \
         route also serves requests without a session"
    )]
    Skipped,
}

impl IntoResponse for SessionRejection {
    fn into_response(self) -> Response {
        let response = match self {
            Self::NoSession { token_sent } => {
                tracing::debug!(status = 401, reason = %self, "request rejected by an extractor");
                Rejection::Unauthorized { token_sent }.response()
            }
            Self::NoLayer | Self::Skipped => {
                tracing::error!("cannot extract a session: {self}");
                problem(StatusCode::INTERNAL_SERVER_ERROR, &self.to_string())
            }
        };
        response.map(Body::from)
    }
}

/// Returns whether the layer found a token in the request. Fails if no layer validated it.
fn token_sent(parts: &Parts) -> Result<bool, SessionRejection> {
    // The innermost layer decided. It removes this value, and inserts it after a look-up.
    if parts.extensions.get().is_some_and(RequestSessions::come_from_a_look_up) {
        return Ok(true);
    }
    match parts.extensions.get() {
        None => Err(SessionRejection::NoLayer),
        Some(Mark::Skipped) => Err(SessionRejection::Skipped),
        Some(Mark::Guarded { token_sent } | Mark::Preflight { token_sent }) => Ok(*token_sent),
    }
}

/// Returns the value that the layer inserted into the request.
fn inserted_by_layer<T: Clone + Send + Sync + 'static>(
    parts: &Parts,
) -> Result<Option<T>, SessionRejection> {
    // The layer's mark is checked first: a session without it does not come from the layer.
    token_sent(parts)?;
    Ok(parts.extensions.get().cloned())
}

/// The request's session. Under [`.optional()`](crate::SessionCacheLayer::optional), a request
/// without one is rejected with 401. To handle it, extract an `Option<Session>`.
impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let token_sent = token_sent(parts)?;
        inserted_by_layer(parts)?.ok_or(SessionRejection::NoSession { token_sent })
    }
}

/// The request's session, or `None` if the layer is optional and the request has no valid session.
/// Extraction fails if no layer validated the request, because `None` would hide that error.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = SessionRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        inserted_by_layer(parts)
    }
}

/// All valid sessions of the request, for a login or a logout. Empty if there are none.
impl<S: Send + Sync> FromRequestParts<S> for RequestSessions {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(inserted_by_layer(parts)?.unwrap_or_default())
    }
}

/// Appends the cookie to those that the response already has.
impl IntoResponseParts for SetCookie {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        self.append_to(response.headers_mut());
        Ok(response)
    }
}
