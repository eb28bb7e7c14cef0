//! How a service is called, and a future polled.

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

use crate::probe::{InnerError, inner::Notes};

/// How long anything may take: what needs longer hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What came of an await.
pub(super) enum Came<T> {
    Done(T),
    Hung,
}

/// Calls the middleware, and says so to the inner service while it is in there.
pub(super) fn call<S: Service<Req>, Req>(
    service: &mut S,
    notes: &Notes,
    request: Req,
) -> S::Future {
    notes.lock().in_call = Some(thread::current().id());
    let future = service.call(request);
    notes.lock().in_call = None;
    future
}

pub(super) async fn in_time<T>(future: impl Future<Output = T>) -> Came<T> {
    match timeout(PATIENCE, future).await {
        Ok(value) => Came::Done(value),
        Err(_elapsed) => Came::Hung,
    }
}

pub(super) fn poll_once<S: Service<Req>, Req>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

/// Polls the future as its task would, and drops it when it is pending after so many awaits. `None`: it was.
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

/// Is it the inner service's error, or made of it?
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

/// Was somebody woken?
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
