//! The inner service: picky, and it writes down what is done to it.

use std::{
    fmt,
    future::Future,
    marker::PhantomPinned,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread::{self, ThreadId},
};

use pin_project_lite::pin_project;
use tower::Service;

use super::Make;

/// The service that a probed middleware is put around: of any request, it answers with `Res`.
///
/// It is ready only where it was polled: a clone is not. Being ready takes a slot, as it would a
/// permit, which is free again when the instance or the future of its call is dropped.
pub struct Inner<Res> {
    slot: Option<Slot>,
    notes: Arc<Notes>,
    answer: Make<Res>,
}

impl<Res> Inner<Res> {
    pub(super) fn new(notes: Arc<Notes>, answer: Make<Res>) -> Self {
        Self {
            slot: None,
            notes,
            answer,
        }
    }
}

impl<Res> Clone for Inner<Res> {
    /// A clone is not ready.
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.notes), Arc::clone(&self.answer))
    }
}

impl<Res> fmt::Debug for Inner<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("ready", &self.slot.is_some())
            .finish_non_exhaustive()
    }
}

/// The inner service's own error, which the middleware passes on, itself or as a source of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the inner service failed, as it was told to")]
#[non_exhaustive]
pub struct InnerError {}

/// How the inner service behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Behaviour {
    /// Ready, and answers after having been pending so many times.
    #[default]
    Answers,
    /// Not ready.
    Unready,
    /// Its readiness fails.
    FailsToBeReady,
    /// Ready, and answers with an error.
    Fails,
}

/// How often its future is pending, before it answers.
const PENDING: usize = 3;

/// What is shared by all clones.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) behaviour: Behaviour,
    /// Slots that are taken now.
    pub(super) slots: usize,
    pub(super) calls: usize,
    /// Calls of an instance that was not ready.
    pub(super) unready_calls: usize,
    /// Which thread is in the middleware's `call`.
    pub(super) in_call: Option<ThreadId>,
    /// How often it was polled in there.
    pub(super) polled_in_call: usize,
    waiting: Vec<Waker>,
}

impl Notes {
    pub(super) fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Behaves so from now on, and wakes whoever waits.
    pub(super) fn behave(&self, behaviour: Behaviour) {
        let waiting = {
            let mut noted = self.lock();
            noted.behaviour = behaviour;
            mem::take(&mut noted.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct Slot(Arc<Notes>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().slots -= 1;
    }
}

impl<Req, Res> Service<Req> for Inner<Res> {
    type Response = Res;
    type Error = InnerError;
    type Future = InnerFuture<Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InnerError>> {
        let mut noted = self.notes.lock();
        if noted.in_call == Some(thread::current().id()) {
            noted.polled_in_call += 1;
        }
        match noted.behaviour {
            Behaviour::FailsToBeReady => Poll::Ready(Err(InnerError {})),
            Behaviour::Unready if self.slot.is_none() => {
                noted.waiting.push(cx.waker().clone());
                Poll::Pending
            }
            Behaviour::Unready | Behaviour::Answers | Behaviour::Fails => {
                if self.slot.is_none() {
                    noted.slots += 1;
                    self.slot = Some(Slot(Arc::clone(&self.notes)));
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, _: Req) -> InnerFuture<Res> {
        let slot = self.slot.take();
        let mut noted = self.notes.lock();
        noted.calls += 1;
        if slot.is_none() {
            // It does not panic, as it might: it is the probe that says what is wrong.
            noted.unready_calls += 1;
        }
        let answer = match noted.behaviour {
            Behaviour::Fails => Err(InnerError {}),
            _ => Ok((self.answer)()),
        };
        InnerFuture {
            slot,
            pending: PENDING,
            answer: Some(answer),
            pinned: PhantomPinned,
        }
    }
}

pin_project! {
    /// The future of an [`Inner`] service. It holds its slot until it has answered, and is not `Unpin`, as
    /// that of an async function is not.
    #[must_use = "futures do nothing unless polled"]
    pub struct InnerFuture<Res> {
        slot: Option<Slot>,
        pending: usize,
        answer: Option<Result<Res, InnerError>>,
        #[pin]
        pinned: PhantomPinned,
    }
}

impl<Res> Future for InnerFuture<Res> {
    type Output = Result<Res, InnerError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if *this.pending > 0 {
            *this.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *this.slot = None;
        // Polled after its end, it never answers again.
        this.answer.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<Res> fmt::Debug for InnerFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InnerFuture")
            .field("pending", &self.pending)
            .field("answered", &self.answer.is_none())
            .finish_non_exhaustive()
    }
}
