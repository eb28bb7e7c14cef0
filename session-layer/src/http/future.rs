//! The states of a request under the layer.

use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::task::coop;
use tower_service::Service;

use crate::engine::validation::Answers;
use crate::http::body::ResponseBody;
use crate::http::config::Config;
use crate::http::finish::{Finish, LookupInfo};
use crate::http::reject::Rejection;
use crate::http::verdict::judge;
use crate::sessions::Boxed;
use crate::sessions::request_sessions::RequestSessions;

pin_project! {
    /// The response future of [`SessionCacheService`](crate::SessionCacheService).
    ///
    /// It may be dropped at any time. A read of the store that is in flight continues in the
    /// background. If the inner service was not called yet, it is not called.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
        finish: Finish,
        // Whether this future must let other tasks run now and then. A look-up does so by itself.
        waits_for_nothing: bool,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqBody, F> {
        // The token is being looked up, in the only boxed future of a request.
        Validating {
            look_up: Boxed<Answers>,
            // The request, and the inner service that was polled ready for it.
            waiting: Option<(Waiting<ReqBody>, S)>,
        },
        Calling { #[pin] future: F },
        // The layer responds without the inner service.
        Answering { response: Option<Response<Bytes>> },
    }
}

/// A request that waits for its look-up.
pub(crate) struct Waiting<ReqBody> {
    pub(crate) parts: Parts,
    pub(crate) body: ReqBody,
    pub(crate) config: Arc<Config>,
    pub(crate) since: Instant,
}

impl<ReqBody> Waiting<ReqBody> {
    /// Decides what the answers mean: the request for the inner service, or the response instead.
    pub(crate) fn decide(
        mut self,
        mut answers: Answers,
        finish: &mut Finish,
    ) -> ControlFlow<Response<Bytes>, Request<ReqBody>> {
        let degraded = answers.degraded;
        let renewals = std::mem::take(&mut answers.renewals);
        let sessions = RequestSessions::among(&answers.validations);
        self.parts.extensions.insert(sessions);
        let (verdict, source) = judge(answers);
        finish.answered = Some(LookupInfo { source, degraded, elapsed: self.since.elapsed() });
        match verdict {
            Ok(session) => {
                finish.renewal = self.config.renewal(&self.parts, &session, &renewals);
                self.parts.extensions.insert(session);
            }
            Err(Rejection::Unauthorized { .. }) if self.config.optional => {}
            Err(rejection) => {
                return ControlFlow::Break(self.config.reject(&self.parts, rejection));
            }
        }
        ControlFlow::Continue(Request::from_parts(self.parts, self.body))
    }
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(crate) fn validating(
        look_up: Boxed<Answers>,
        waiting: Waiting<ReqBody>,
        ready: S,
        finish: Finish,
    ) -> Self {
        let waiting = Some((waiting, ready));
        let state = State::Validating { look_up, waiting };
        Self { state, finish, waits_for_nothing: false }
    }

    /// Creates the future of a request that is answered without a look-up.
    pub(crate) fn calling(future: S::Future, finish: Finish) -> Self {
        let state = State::Calling { future };
        Self { state, finish, waits_for_nothing: true }
    }

    pub(crate) fn answering(response: Response<Bytes>, finish: Finish) -> Self {
        let response = Some(response);
        let state = State::Answering { response };
        Self { state, finish, waits_for_nothing: true }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const AFTER_END: &str = "a ResponseFuture was polled after its completion";
        let mut this = self.project();
        if *this.waits_for_nothing {
            // A caller that sends the next request at once would otherwise keep its thread.
            ready!(coop::poll_proceed(cx)).made_progress();
            *this.waits_for_nothing = false;
        }
        let mut response = loop {
            match this.state.as_mut().project() {
                StateProj::Validating { look_up, waiting } => {
                    let answers = ready!(look_up.as_mut().poll(cx));
                    let (waiting, mut ready) = waiting.take().expect(AFTER_END);
                    this.state.set(match waiting.decide(answers, this.finish) {
                        ControlFlow::Continue(request) => {
                            State::Calling { future: ready.call(request) }
                        }
                        ControlFlow::Break(response) => {
                            State::Answering { response: Some(response) }
                        }
                    });
                }
                StateProj::Calling { future } => {
                    break ready!(future.poll(cx))?.map(ResponseBody::inner);
                }
                StateProj::Answering { response } => {
                    let response = response.take().expect(AFTER_END);
                    break response.map(ResponseBody::rejection);
                }
            }
        };
        std::mem::take(this.finish).apply(&mut response);
        Poll::Ready(Ok(response))
    }
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Validating { .. } => "validating",
            State::Calling { .. } => "calling",
            State::Answering { .. } => "answering",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
