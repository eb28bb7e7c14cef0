//! [`ResponseFuture`]: the states of a request under the layer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::answered::{Answered, Finish};
use crate::body::ResponseBody;
use crate::layer::Config;
use crate::presented::PresentedSessions;
use crate::reject::Rejection;
use crate::service::judge;
use crate::sessions::Boxed;
use crate::validate::Answers;

pin_project! {
    /// The future of [`SessionCacheService`](crate::SessionCacheService).
    ///
    /// Dropping it at any point is safe: a read of the store that is under way goes on to its end
    /// without it, and the inner service, if it was not called yet, is not called.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
        finish: Finish,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, ReqBody, F> {
        // The token is being looked up: the one boxed future of a request.
        Validating {
            look_up: Boxed<Answers>,
            waiting: Option<Waiting<S, ReqBody>>,
        },
        // The inner service is at work.
        Calling { #[pin] future: F },
        // The answer is known.
        Rejecting { response: Option<Response<Bytes>> },
    }
}

/// What waits for the look-up to end.
pub(crate) struct Waiting<S, ReqBody> {
    pub(crate) parts: Parts,
    pub(crate) body: ReqBody,
    /// The inner service that was polled ready for this very request.
    pub(crate) ready: S,
    pub(crate) config: Arc<Config>,
    pub(crate) since: Instant,
}

impl<S, ReqBody> Waiting<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn go_on(mut self, mut answers: Answers, finish: &mut Finish) -> State<S, ReqBody, S::Future> {
        let degraded = answers.degraded;
        let prolonged = std::mem::take(&mut answers.prolonged);
        let presented = PresentedSessions::among(&answers.validations);
        self.parts.extensions.insert(presented);
        let (verdict, tier) = judge(answers);
        finish.answered = Some(Answered {
            tier,
            degraded,
            elapsed: self.since.elapsed(),
        });
        match verdict {
            Ok(session) => {
                finish.cookie = self.config.cookie_again(&self.parts, &session, &prolonged);
                self.parts.extensions.insert(session);
            }
            Err(Rejection::Unauthorized) if self.config.optional => {}
            Err(rejection) => {
                let response = self.config.reject(&self.parts, rejection);
                return State::Rejecting {
                    response: Some(response),
                };
            }
        }
        let request = Request::from_parts(self.parts, self.body);
        State::Calling {
            future: self.ready.call(request),
        }
    }
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(crate) fn validating(
        look_up: Boxed<Answers>,
        waiting: Waiting<S, ReqBody>,
        finish: Finish,
    ) -> Self {
        let waiting = Some(waiting);
        let state = State::Validating { look_up, waiting };
        Self { state, finish }
    }

    pub(crate) fn calling(future: S::Future, finish: Finish) -> Self {
        let state = State::Calling { future };
        Self { state, finish }
    }

    pub(crate) fn rejecting(response: Response<Bytes>, finish: Finish) -> Self {
        let response = Some(response);
        let state = State::Rejecting { response };
        Self { state, finish }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const AFTER_THE_END: &str = "a ResponseFuture was polled after it had ended";
        let mut this = self.project();
        let mut response = loop {
            match this.state.as_mut().project() {
                StateProj::Validating { look_up, waiting } => {
                    let answers = ready!(look_up.as_mut().poll(cx));
                    let waiting = waiting.take().expect(AFTER_THE_END);
                    let next = waiting.go_on(answers, this.finish);
                    this.state.set(next);
                }
                StateProj::Calling { future } => {
                    break ready!(future.poll(cx))?.map(ResponseBody::inner);
                }
                StateProj::Rejecting { response } => {
                    let response = response.take().expect(AFTER_THE_END);
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
            State::Rejecting { .. } => "rejecting",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
