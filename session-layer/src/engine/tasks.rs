//! The background tasks of one engine, and how they end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The background tasks of one engine. It counts them, and ends those that would run for ever.
/// Clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    /// A child of `shutdown`.
    unused: CancellationToken,
}

/// The guard that keeps the loops of an engine running. See [`Tasks::keep_loops`].
pub(crate) type KeepLoops = Arc<DropGuard>;

impl Tasks {
    /// Creates the state of an engine without tasks.
    pub(crate) fn new() -> Self {
        let shutdown = CancellationToken::new();
        let unused = shutdown.child_token();
        Self { tracker: TaskTracker::new(), shutdown, unused }
    }

    /// Spawns a task. [`finish`](Self::finish) waits for it.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Returns the guard of the loops that serve the engine. They end when its last clone is
    /// dropped. The engine and whatever a request or a change may leave running hold one. No loop
    /// holds one.
    pub(crate) fn keep_loops(&self) -> KeepLoops {
        Arc::new(self.unused.clone().drop_guard())
    }

    /// Ends every loop, because the application shuts the engine down.
    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Waits until every task has ended. No task may be spawned from here on.
    pub(crate) async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Runs one step of a loop that serves the engine. Returns `None` if the loop must end.
    pub(crate) async fn or_end<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        self.unused.run_until_cancelled(step).await
    }

    /// Runs one step of a loop that continues after the last handle was dropped. Returns `None` at
    /// the shutdown.
    pub(crate) async fn or_shutdown<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        self.shutdown.run_until_cancelled(step).await
    }

    /// Pauses a loop that serves the engine. Returns `None` if the loop must end.
    pub(crate) async fn pause(&self, pause: Duration) -> Option<()> {
        self.or_end(tokio::time::sleep(pause)).await
    }
}
