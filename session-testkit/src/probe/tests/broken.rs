//! A middleware with one fault, or none.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt as _};

use crate::probe::{BoxError, Rule};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    CallsAClone,
    ReadinessIsCloned,
    PollsReadyInCall,
    WaitsInside,
    LosesTheWaker,
    ForgetsThatItWasReady,
    SwallowsReadinessErrors,
    MapsReadinessErrors,
    MapsErrors,
    AnswersInPlaceOfErrors,
    HoldsASlot,
    LosesItsPermit,
    AnswersAll,
    Hangs,
    Panics,
}

/// Each fault with the rule that it breaks.
pub(super) const FAULTS: &[(Fault, Rule)] = &[
    (Fault::CallsAClone, Rule::CallsOnlyWhatIsReady),
    (Fault::ReadinessIsCloned, Rule::CallsOnlyWhatIsReady),
    (Fault::PollsReadyInCall, Rule::CallDoesNotPollReady),
    (Fault::WaitsInside, Rule::Backpressure),
    (Fault::LosesTheWaker, Rule::Wakes),
    (Fault::ForgetsThatItWasReady, Rule::StaysReady),
    (Fault::SwallowsReadinessErrors, Rule::ReadinessErrors),
    (Fault::MapsReadinessErrors, Rule::ReadinessErrors),
    (Fault::MapsErrors, Rule::Errors),
    (Fault::AnswersInPlaceOfErrors, Rule::Errors),
    (Fault::HoldsASlot, Rule::ReleasesSlots),
    (Fault::LosesItsPermit, Rule::LeavesNothingBehind),
    (Fault::AnswersAll, Rule::PassesRequestsOn),
    (Fault::Hangs, Rule::PassesRequestsOn),
    (Fault::Panics, Rule::NoPanic),
];

/// A layer and a service in one type. As a layer it wraps `()`.
#[derive(Clone)]
pub(super) struct Broken<S = ()> {
    inner: S,
    fault: Fault,
    shared: Arc<Shared>,
    /// The number of `poll_ready` calls since the last `call`.
    polled: u32,
    /// Whether an error of readiness was swallowed.
    swallowed: bool,
}

struct Shared {
    /// Instances that are never dropped.
    held: Mutex<Vec<Box<dyn Any + Send>>>,
    permits: Arc<Semaphore>,
}

impl Broken {
    pub(super) fn with(fault: Fault) -> Self {
        Self::around(
            (),
            fault,
            Arc::new(Shared { held: Mutex::default(), permits: Arc::new(Semaphore::new(1)) }),
        )
    }
}

impl<S> Broken<S> {
    fn around(inner: S, fault: Fault, shared: Arc<Shared>) -> Self {
        Self { inner, fault, shared, polled: 0, swallowed: false }
    }
}

impl<S> Layer<S> for Broken {
    type Service = Broken<S>;

    fn layer(&self, inner: S) -> Broken<S> {
        Broken::around(inner, self.fault, Arc::clone(&self.shared))
    }
}

impl<S, Req> Service<Req> for Broken<S>
where
    S: Service<Req, Response = String> + Clone + Send + 'static,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
    Req: Send + 'static,
{
    type Response = String;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let polled = self.polled;
        self.polled += 1;
        match self.fault {
            Fault::ReadinessIsCloned if polled > 0 => return Poll::Ready(Ok(())),
            Fault::WaitsInside => return Poll::Ready(Ok(())),
            Fault::ForgetsThatItWasReady if polled == 1 => return Poll::Pending,
            Fault::HoldsASlot => {
                let mut other = self.inner.clone();
                let _ = other.poll_ready(cx);
                self.shared.held.lock().unwrap().push(Box::new(other));
            }
            _ => {}
        }
        let ready = match self.fault {
            Fault::LosesTheWaker => self.inner.poll_ready(&mut Context::from_waker(Waker::noop())),
            _ => self.inner.poll_ready(cx),
        };
        match (self.fault, ready) {
            // Only `Ready` counts as polled ready.
            (Fault::ReadinessIsCloned, Poll::Pending) => {
                self.polled = 0;
                Poll::Pending
            }
            (Fault::SwallowsReadinessErrors, Poll::Ready(Err(_))) => {
                self.swallowed = true;
                Poll::Ready(Ok(()))
            }
            (Fault::MapsReadinessErrors, Poll::Ready(Err(_))) => Poll::Ready(Err("sorry".into())),
            (_, ready) => ready.map_err(Into::into),
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.polled = 0;
        assert!(self.fault != Fault::Panics, "injected panic");
        if self.swallowed {
            return Box::pin(async { Ok("all is well".to_owned()) });
        }
        let fault = self.fault;
        let clone = self.inner.clone();
        let mut ready = match fault {
            Fault::CallsAClone => clone,
            _ => std::mem::replace(&mut self.inner, clone),
        };
        if fault == Fault::PollsReadyInCall {
            let _ = ready.poll_ready(&mut Context::from_waker(Waker::noop()));
        }
        let permits = Arc::clone(&self.shared.permits);
        Box::pin(async move {
            match fault {
                Fault::WaitsInside => drop(ready.ready().await.map_err(Into::into)?),
                Fault::LosesItsPermit => permits.acquire().await?.forget(),
                Fault::AnswersAll => return Ok("all is well".to_owned()),
                Fault::Hangs => std::future::pending().await,
                _ => {}
            }
            let answer = ready.call(request).await.map_err(Into::into);
            match fault {
                Fault::LosesItsPermit => permits.add_permits(1),
                Fault::MapsErrors if answer.is_err() => return Err("sorry".into()),
                Fault::AnswersInPlaceOfErrors if answer.is_err() => {
                    return Ok("all is well".to_owned());
                }
                _ => {}
            }
            answer
        })
    }
}
