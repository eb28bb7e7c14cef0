//! Futures that are dropped on purpose, as a server drops them after a disconnect.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

/// The moment at which a caller drops a future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropWhen {
    /// At the n-th await that is pending, counted from 1.
    AtAwait(u32),
    /// After this time.
    After(Duration),
}

/// Returns the future's output. `None` if it was dropped before it had one.
pub(super) async fn dropping<F: Future>(future: F, when: Option<DropWhen>) -> Option<F::Output> {
    match when {
        None => Some(future.await),
        Some(DropWhen::After(span)) => tokio::time::timeout(span, future).await.ok(),
        Some(DropWhen::AtAwait(awaits)) => AtAwait { future: pin!(future), left: awaits }.await,
    }
}

struct AtAwait<'a, F> {
    future: Pin<&'a mut F>,
    left: u32,
}

impl<F: Future> Future for AtAwait<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waits(times: u32) -> u32 {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn future_is_dropped_at_the_given_await() {
        assert_eq!(dropping(waits(2), Some(DropWhen::AtAwait(2))).await, None);
        assert_eq!(dropping(waits(1), Some(DropWhen::AtAwait(2))).await, Some(1));
        assert_eq!(dropping(waits(0), Some(DropWhen::AtAwait(1))).await, Some(0));
        assert_eq!(dropping(waits(9), None).await, Some(9));
        let second = tokio::time::sleep(Duration::from_secs(1));
        let soon = Some(DropWhen::After(Duration::from_millis(10)));
        assert_eq!(dropping(second, soon).await, None);
    }
}
