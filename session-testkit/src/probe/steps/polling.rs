//! Helpers that call a service and poll its future.

use std::{
    error::Error,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use tokio::time::timeout;
use tower::Service;

use crate::probe::{InnerError, inner::CallLog};

/// The timeout of every await. A future that takes longer has hung.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// The result of an await with a timeout.
pub(super) enum Outcome<T> {
    Done(T),
    Hung,
}

/// Calls the middleware, and records for the inner service that the call is running.
pub(super) fn call<S: Service<Req>, Req>(
    service: &mut S,
    log: &CallLog,
    request: Req,
) -> S::Future {
    log.lock().in_call = Some(thread::current().id());
    let future = service.call(request);
    log.lock().in_call = None;
    future
}

pub(super) async fn in_time<T>(future: impl Future<Output = T>) -> Outcome<T> {
    match timeout(TIMEOUT, future).await {
        Ok(value) => Outcome::Done(value),
        Err(_elapsed) => Outcome::Hung,
    }
}

pub(super) fn poll_once<S: Service<Req>, Req>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

/// Polls the future as its task would, and drops it if it is pending after `awaits` awaits. Returns
/// `None` if it was dropped.
pub(super) async fn dropped_at<F: Future>(awaits: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = awaits;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Returns whether the error is the inner service's or has it as a source.
pub(in super::super) fn is_inners(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<InnerError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// A waker that records whether it was used.
#[derive(Debug, Default)]
pub(super) struct Woken(AtomicBool);

impl Woken {
    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
