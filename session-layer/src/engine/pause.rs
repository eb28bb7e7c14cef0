//! The pause without traffic: a node without requests sends nothing to the store, so that a
//! database that scales to zero can sleep.
//!
//! A task looks once a second whether a request has come. After the time that is set, the node
//! pauses. Each loop that sends statements by itself then rests before its next one
//! ([`GuardedStore::rest`]). The next request ends the pause.
//!
//! A node that wakes counts as one that has just started, whatever its policy. Before the reader of
//! the journal rests, it forgets that the journal was read. Before the registrar rests, this node
//! leaves the registry. Either one alone keeps every entry from being served, until this node is
//! registered again and has read the journal since. A hit therefore needs no check of its own.
//!
//! [`GuardedStore::rest`]: crate::engine::guarded_store::GuardedStore::rest

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::tasks::Tasks;

/// How often the node looks whether a request has come, at most. A pause begins later by this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether this node pauses, and what a request leaves for the task that decides it.
#[derive(Debug)]
pub(crate) struct Pause {
    /// Whether a request has come since the task looked last. On a node that never pauses it is
    /// always set, so that a request only reads it.
    used: AtomicBool,
    state: watch::Sender<PauseState>,
}

#[derive(Debug, Clone, Copy)]
enum PauseState {
    /// The loops send their statements, since this moment.
    Awake(Instant),
    Paused,
}

impl PauseState {
    fn is_paused(self) -> bool {
        matches!(self, Self::Paused)
    }
}

impl Pause {
    /// Creates the state of a node that has just started.
    pub(crate) fn new() -> Self {
        let state = watch::Sender::new(PauseState::Awake(Instant::now()));
        Self { used: AtomicBool::new(true), state }
    }

    /// Records that a request has come. It ends a pause.
    pub(crate) fn request_came(&self) {
        // Under load, most requests only read what an earlier one has stored.
        if !self.used.load(Ordering::Relaxed) {
            self.wake_up();
        }
    }

    /// Returns whether this node sends nothing to the store until a request comes.
    pub(crate) fn is_paused(&self) -> bool {
        self.state.borrow().is_paused()
    }

    /// Returns when this node started, or when its last pause ended. `None`: it is paused.
    #[cfg(feature = "metrics")]
    pub(crate) fn awake_since(&self) -> Option<Instant> {
        match *self.state.borrow() {
            PauseState::Awake(since) => Some(since),
            PauseState::Paused => None,
        }
    }

    /// Waits until this node is not paused. Returns since when it is not.
    pub(crate) async fn ended(&self) -> Instant {
        let mut state = self.state.subscribe();
        loop {
            if let PauseState::Awake(since) = *state.borrow_and_update() {
                return since;
            }
            // The sender is this one's, so that it is not gone.
            let _ = state.changed().await;
        }
    }

    /// Pauses whenever no request has come for `after`, for as long as the engine lives.
    pub(crate) async fn watch(self: Arc<Self>, after: Duration, tasks: Tasks) -> Option<()> {
        let mut idle_since = self.ended().await;
        loop {
            tasks.pause(after.min(LOOK_EVERY)).await?;
            let now = Instant::now();
            if self.used.swap(false, Ordering::SeqCst) {
                idle_since = now;
            } else if now.saturating_duration_since(idle_since) >= after {
                self.begin();
                idle_since = tasks.or_end(self.ended()).await?;
            }
        }
    }

    fn begin(&self) {
        tracing::info!(
            "there is no traffic: this node sends nothing to the session store until a request \
             comes"
        );
        self.state.send_replace(PauseState::Paused);
        // Either a request that came meanwhile saw the pause, or it is seen here.
        if self.used.load(Ordering::SeqCst) {
            self.wake_up();
        }
    }

    #[cold]
    fn wake_up(&self) {
        self.used.store(true, Ordering::SeqCst);
        let woken = self.state.send_if_modified(|state| {
            let was_paused = state.is_paused();
            if was_paused {
                *state = PauseState::Awake(Instant::now());
            }
            was_paused
        });
        if woken {
            tracing::info!("a request has come: this node reads the journal of sessions again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(60);

    fn watched() -> Arc<Pause> {
        let pause = Arc::new(Pause::new());
        tokio::spawn(Arc::clone(&pause).watch(AFTER, Tasks::new()));
        pause
    }

    #[tokio::test(start_paused = true)]
    async fn pause_begins_after_the_last_request_and_ends_with_the_next() {
        let pause = watched();
        for _ in 0..10 {
            tokio::time::sleep(AFTER - LOOK_EVERY * 2).await;
            assert!(!pause.is_paused());
            pause.request_came();
        }
        for _ in 0..2 {
            tokio::time::sleep(AFTER - Duration::from_millis(1)).await;
            assert!(!pause.is_paused());
            tokio::time::sleep(LOOK_EVERY * 2).await;
            assert!(pause.is_paused());
            tokio::time::sleep(AFTER * 100).await;
            assert!(pause.is_paused());
            pause.request_came();
            assert!(!pause.is_paused());
            pause.ended().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_comes_while_the_pause_begins_ends_it() {
        let pause = Pause::new();
        pause.used.store(false, Ordering::SeqCst);
        // It has not seen the pause.
        pause.request_came();
        pause.begin();
        assert!(!pause.is_paused());
    }
}
