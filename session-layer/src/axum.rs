//! Extractors for axum: [`Session`], and `Option<Session>` under `.optional()`.

use std::convert::Infallible;

use ::axum::body::Body;
use ::axum::extract::{FromRequestParts, OptionalFromRequestParts};
use ::axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::StatusCode;
use http::request::Parts;

use crate::cookie::SetCookie;
use crate::presented::PresentedSessions;
use crate::reject::{Rejection, problem};
use crate::service::Mark;
use crate::session::Session;

/// Why there is no [`Session`] to extract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SessionRejection {
    /// The request has none, and the handler needs one: 401, the same answer as the layer's.
    #[error("a valid session is required")]
    NoSession,
    /// Nobody looked for one: 500. A mistake in the routes.
    #[error(
        "no SessionCacheLayer above this route, so nobody validated the request's session: \
         add `.layer(SessionCacheLayer::new(sessions))` to the Router after its routes"
    )]
    NoLayer,
    /// The layer was told to skip this route: 500. A mistake in the routes.
    #[error(
        "SessionCacheLayer skipped this request, so nobody validated its session: let the \
         predicate given to `.skip(…)` return false for this route, with `.optional()` if the \
         route is for strangers too"
    )]
    Skipped,
}

impl IntoResponse for SessionRejection {
    fn into_response(self) -> Response {
        let response = match self {
            Self::NoSession => {
                tracing::debug!(status = 401, reason = %self, "request rejected by an extractor");
                Rejection::Unauthorized.response()
            }
            Self::NoLayer | Self::Skipped => {
                tracing::error!("cannot extract a session: {self}");
                problem(StatusCode::INTERNAL_SERVER_ERROR, &self.to_string())
            }
        };
        response.map(Body::from)
    }
}

/// What the layer left in the request, if it looked.
fn left_by_the_layer<T: Clone + Send + Sync + 'static>(
    parts: &Parts,
) -> Result<Option<T>, SessionRejection> {
    // The layer's mark is asked first: a session that is there without it is not from us.
    match parts.extensions.get() {
        None => Err(SessionRejection::NoLayer),
        Some(Mark::Skipped) => Err(SessionRejection::Skipped),
        Some(Mark::Guarded | Mark::Preflight) => Ok(parts.extensions.get().cloned()),
    }
}

/// The request's session. Under [`.optional()`](crate::SessionCacheLayer::optional) a request without
/// one is answered with 401; take an `Option<Session>` to handle it.
impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        left_by_the_layer(parts)?.ok_or(SessionRejection::NoSession)
    }
}

/// The request's session, or `None` where the layer is optional and the request has no valid one.
/// Where nobody looked it is an error all the same: a `None` would hide the mistake.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = SessionRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        left_by_the_layer(parts)
    }
}

/// Every valid session of the request, for a logout; empty where it has none.
impl<S: Send + Sync> FromRequestParts<S> for PresentedSessions {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(left_by_the_layer(parts)?.unwrap_or_default())
    }
}

/// Appends the cookie to the answer's others.
impl IntoResponseParts for SetCookie {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        self.append_to(response.headers_mut());
        Ok(response)
    }
}
