//! The health document, liveness and readiness over HTTP.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower_service::Service;

use super::ready::readiness;
use crate::http::reject::problem;
use crate::sessions::{Boxed, Sessions};

/// A Tower service for health checks, for axum's `route_service` or for hyper.
///
/// ```
/// use axum::Router;
/// use session_layer::{HealthService, Sessions};
///
/// fn health(sessions: &Sessions) -> Router {
///     Router::new()
///         .route_service("/api/health/redis", HealthService::report(sessions.clone()))
///         .route_service("/livez", HealthService::livez())
///         .route_service("/readyz", HealthService::readyz(sessions.clone()))
/// }
/// ```
///
/// Do not put these routes under a [`SessionCacheLayer`](crate::SessionCacheLayer), because health
/// checks have no session. The service responds within a second, even if a server hangs. Concurrent
/// requests share one probe. Other methods than GET and HEAD get 405.
#[derive(Debug, Clone)]
pub struct HealthService {
    check: Check,
}

#[derive(Debug, Clone)]
enum Check {
    Report(Sessions),
    Live,
    Ready(Sessions),
}

impl HealthService {
    /// Creates a service for the health document ([`HealthReport`](crate::health::HealthReport)):
    /// 200, or 503 if the cache is not connected. It is for operators, dashboards and alarms. An
    /// orchestrator must not act on it, because it would stop nodes that Postgres still serves.
    #[must_use]
    pub fn report(sessions: Sessions) -> Self {
        let check = Check::Report(sessions);
        Self { check }
    }

    /// Creates a service for liveness: 200 as long as the process responds. It queries no server.
    /// Therefore no outage of Redis or Postgres restarts the process.
    #[must_use]
    pub fn livez() -> Self {
        let check = Check::Live;
        Self { check }
    }

    /// Creates a service for readiness: 200, or 503 with the reason if no session could be
    /// validated. Then the store does not respond, and the cache does not or is bypassed.
    #[must_use]
    pub fn readyz(sessions: Sessions) -> Self {
        let check = Check::Ready(sessions);
        Self { check }
    }
}

impl<B> Service<Request<B>> for HealthService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = HealthFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let check = self.check.clone();
        let asked = matches!(*request.method(), Method::GET | Method::HEAD);
        HealthFuture(Box::pin(async move {
            let mut response = if asked {
                check.answer().await
            } else {
                let mut refusal = problem(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "a health check must be a GET or a HEAD",
                );
                let allow = HeaderValue::from_static("GET, HEAD");
                refusal.headers_mut().insert(ALLOW, allow);
                refusal
            };
            // A stored health check is outdated.
            let no_store = HeaderValue::from_static("no-store");
            response.headers_mut().insert(CACHE_CONTROL, no_store);
            response.map(Full::new)
        }))
    }
}

impl Check {
    async fn answer(self) -> Response<Bytes> {
        match self {
            Self::Report(sessions) => {
                let report = sessions.health().await;
                // Serializing strings and numbers cannot fail.
                let document = serde_json::to_vec(&report).unwrap_or_default();
                json(report.http_status(), document.into())
            }
            Self::Live => json(StatusCode::OK, Bytes::from_static(br#"{"status":"alive"}"#)),
            Self::Ready(sessions) => match ready(&sessions).await {
                Ok(()) => json(StatusCode::OK, Bytes::from_static(br#"{"status":"ready"}"#)),
                Err(reason) => problem(StatusCode::SERVICE_UNAVAILABLE, &reason),
            },
        }
    }
}

fn json(status: StatusCode, document: Bytes) -> Response<Bytes> {
    let mut response = Response::new(document);
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The future of [`HealthService`].
#[must_use = "futures do nothing unless polled"]
pub struct HealthFuture(Boxed<Response<Full<Bytes>>>);

impl Future for HealthFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for HealthFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthFuture").finish_non_exhaustive()
    }
}

async fn ready(sessions: &Sessions) -> Result<(), String> {
    let probed = sessions.probe().await;
    readiness(sessions.mode(), sessions.engine.permits_serving(), &probed)
}
