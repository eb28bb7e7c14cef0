//! The processing of a request.
//!
//! 1. A `Session` that other middleware inserted into the request's extensions is dropped.
//! 2. Skipped requests pass without validation. The layer responds to a CORS preflight.
//! 3. The tokens are extracted. A malformed Bearer token gets 400.
//! 4. A request without a token gets 401, or passes without a session if the layer is optional.
//! 5. Otherwise the tokens are looked up. [`judge`] combines the results.

use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use tower_service::Service;

use crate::http::body::ResponseBody;
use crate::http::config::{Config, Mark, Next, preflight_answer};
use crate::http::future::{ResponseFuture, Waiting};
use crate::model::session::Session;
use crate::sessions::Sessions;
use crate::sessions::request_sessions::RequestSessions;

/// The service that [`SessionCacheLayer`](crate::SessionCacheLayer) creates and describes.
///
/// The inner service's error type is unchanged, because a rejection is a response. The inner
/// service must be `Clone`: the ready instance moves into the future during the look-up.
#[derive(Debug, Clone)]
pub struct SessionCacheService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> SessionCacheService<S> {
    /// Guards `inner` with the defaults of [`SessionCacheLayer::new`]. To set anything else,
    /// configure the layer and apply it.
    ///
    /// [`SessionCacheLayer::new`]: crate::SessionCacheLayer::new
    pub fn new(inner: S, sessions: Sessions) -> Self {
        Self::with_config(inner, Arc::new(Config::new(sessions)))
    }

    pub(crate) fn with_config(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, unguarded.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SessionCacheService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        parts.extensions.remove::<Session>();
        parts.extensions.remove::<RequestSessions>();
        let next = self.config.triage(&parts);
        let guarded = match next {
            Next::Pass(mark) => matches!(mark, Mark::Guarded { .. }),
            Next::AnswerPreflight => false,
            Next::Reject(_) | Next::LookUp(_) => true,
        };
        let finish = self.config.finish(guarded);
        match next {
            Next::AnswerPreflight => ResponseFuture::answering(preflight_answer(), finish),
            Next::Pass(mark) => {
                parts.extensions.insert(mark);
                let request = Request::from_parts(parts, body);
                ResponseFuture::calling(self.inner.call(request), finish)
            }
            Next::Reject(rejection) => {
                ResponseFuture::answering(self.config.reject(&parts, rejection), finish)
            }
            Next::LookUp(digests) => {
                let config = Arc::clone(&self.config);
                let waiting = Waiting { parts, body, config, since: Instant::now() };
                // A hit in this process is answered here, by the service that is ready.
                if let Some(answers) = self.config.sessions.near_hit(&digests) {
                    let mut finish = finish;
                    return match waiting.decide(answers, &mut finish) {
                        ControlFlow::Continue(request) => {
                            ResponseFuture::calling(self.inner.call(request), finish)
                        }
                        ControlFlow::Break(response) => ResponseFuture::answering(response, finish),
                    };
                }
                let look_up = self.config.sessions.look_up(digests);
                // `poll_ready` made *this* inner service ready. One instance holds a permit or a
                // slot in a buffer, and a clone may not be ready. The future therefore takes the
                // ready instance. The clone stays behind and is polled before it is called.
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                ResponseFuture::validating(look_up, waiting, ready, finish)
            }
        }
    }
}
