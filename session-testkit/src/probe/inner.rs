//! The inner service, which checks its use and records it.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread::{self, ThreadId},
};

use futures_util::future::BoxFuture;
use tokio::task::yield_now;
use tower::Service;

use super::Make;

/// The service that a probed middleware wraps. It responds to any request with `Res`.
///
/// Only an instance that was polled is ready, and its clones are not. Readiness takes a slot, like
/// a permit. The slot is released when the instance or the future of its call is dropped.
pub struct Inner<Res> {
    slot: Option<Slot>,
    log: Arc<CallLog>,
    answer: Make<Res>,
}

impl<Res> Inner<Res> {
    pub(super) fn new(log: Arc<CallLog>, answer: Make<Res>) -> Self {
        Self { slot: None, log, answer }
    }
}

impl<Res> Clone for Inner<Res> {
    /// Returns an instance that is not ready.
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.log), Arc::clone(&self.answer))
    }
}

impl<Res> fmt::Debug for Inner<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("ready", &self.slot.is_some()).finish_non_exhaustive()
    }
}

/// The inner service's error. The middleware returns it, itself or as a source of its own error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("injected failure of the inner service")]
#[non_exhaustive]
pub struct InnerError {}

/// The behaviour of the inner service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Behaviour {
    /// It is ready, and responds after [`PENDING`] polls.
    #[default]
    Answers,
    /// It is not ready.
    Unready,
    /// Its readiness fails.
    FailsToBeReady,
    /// It is ready, and responds with an error.
    Fails,
}

/// The number of polls for which the future is pending before it responds.
const PENDING: usize = 3;

/// The log that all clones share.
#[derive(Debug, Default)]
pub(super) struct CallLog(Mutex<LogState>);

#[derive(Debug, Default)]
pub(super) struct LogState {
    pub(super) behaviour: Behaviour,
    /// The number of slots that are taken.
    pub(super) slots: usize,
    pub(super) calls: usize,
    /// The number of calls on an instance that was not ready.
    pub(super) unready_calls: usize,
    /// The thread that is in the middleware's `call`.
    pub(super) in_call: Option<ThreadId>,
    /// The number of `poll_ready` calls from within the middleware's `call`.
    pub(super) polled_in_call: usize,
    waiting: Vec<Waker>,
}

impl CallLog {
    pub(super) fn lock(&self) -> MutexGuard<'_, LogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the behaviour, and wakes all waiting tasks.
    pub(super) fn behave(&self, behaviour: Behaviour) {
        let waiting = {
            let mut state = self.lock();
            state.behaviour = behaviour;
            mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct Slot(Arc<CallLog>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().slots -= 1;
    }
}

impl<Req, Res: Send + 'static> Service<Req> for Inner<Res> {
    type Response = Res;
    type Error = InnerError;
    type Future = BoxFuture<'static, Result<Res, InnerError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InnerError>> {
        let mut state = self.log.lock();
        if state.in_call == Some(thread::current().id()) {
            state.polled_in_call += 1;
        }
        match state.behaviour {
            Behaviour::FailsToBeReady => Poll::Ready(Err(InnerError {})),
            Behaviour::Unready if self.slot.is_none() => {
                state.waiting.push(cx.waker().clone());
                Poll::Pending
            }
            Behaviour::Unready | Behaviour::Answers | Behaviour::Fails => {
                if self.slot.is_none() {
                    state.slots += 1;
                    self.slot = Some(Slot(Arc::clone(&self.log)));
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, _: Req) -> Self::Future {
        let slot = self.slot.take();
        let mut state = self.log.lock();
        state.calls += 1;
        if slot.is_none() {
            // Tower permits a panic here, but the probe reports the error itself.
            state.unready_calls += 1;
        }
        let answer = match state.behaviour {
            Behaviour::Fails => Err(InnerError {}),
            _ => Ok((self.answer)()),
        };
        Box::pin(async move {
            for _ in 0..PENDING {
                yield_now().await;
            }
            drop(slot);
            answer
        })
    }
}
