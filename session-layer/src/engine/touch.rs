//! Touches: the use of a session is recorded in the store, and its idle timeout begins anew.
//!
//! A validation reads that a session is active and finds that its use was not recorded for a while
//! (`engine/lifetime.rs`: a quarter of the idle timeout, or a minute). With an idle timeout the
//! touch precedes the response, because it decides whether the session remains valid. Without one
//! it only dates the user's list of sessions, and is made in the background.
//!
//! Touches are serialized, and no response waits for long. Of the many requests that find a popular
//! session due at once, one touches it. The others have read that it is active, and get their
//! response. The same holds if other touches come first, if the row is locked, or if the store
//! rejects every change: the session is served, its touch is made as soon as possible, and the next
//! use tries again. Touches therefore never take from reads what reads need, however many sessions
//! are due and whatever delays a touch. No use that could be recorded is lost.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::engine::guarded_store::GuardedStore;
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::tasks::Tasks;
use crate::model::lock::lock;
use crate::model::session::{Session, SessionId};
use crate::store::{Change, SessionStore};

/// A touch before the response gets this part of the validation timeout, because the read before it
/// may have taken the most. It continues when the response no longer waits for it.
const SHARE_OF_TIMEOUT: u32 = 5;
/// The limit of sessions that wait for their touch: about 10 MiB. Beyond it the next use tries
/// again.
const MOST_WAITING: usize = 10_000;

/// The touches of sessions, one at a time. In a pool of its own with at least four connections,
/// `PostgresStore` keeps one for them: a thousand touches a second, because a touch waits for no
/// disk.
#[derive(Debug)]
pub(crate) struct Toucher<S> {
    store: Arc<GuardedStore<S>>,
    settings: Settings,
    tasks: Tasks,
    turn: Semaphore,
    /// The sessions that are touched, or wait for it.
    sessions: Mutex<HashSet<SessionId>>,
}

/// The result of a touch before the response.
pub(crate) enum Touched {
    /// The session as it is now.
    Recorded(Session),
    /// The session has ended since it was read.
    Ended,
    /// Nothing yet: another request touches it, other touches come first, or the store can't.
    NotYet,
}

impl<S: SessionStore> Toucher<S> {
    pub(crate) fn new(store: Arc<GuardedStore<S>>, settings: Settings, tasks: Tasks) -> Arc<Self> {
        let (turn, sessions) = (Semaphore::new(1), Mutex::default());
        Arc::new(Self { store, settings, tasks, turn, sessions })
    }

    /// Touches a session before the response, unless it would have to wait for other touches.
    pub(crate) async fn touch(self: &Arc<Self>, id: SessionId, granularity: Duration) -> Touched {
        let Some(entered) = self.enter(id) else {
            return Touched::NotYet;
        };
        let comes_first = entered.comes_first;
        let touching = self.tasks.spawn(spans::in_current(entered.touch(granularity)));
        if !comes_first {
            return Touched::NotYet;
        }
        match timeout(self.settings.validation_timeout / SHARE_OF_TIMEOUT, touching).await {
            Ok(Ok(Some(Change::Made { session, .. }))) => Touched::Recorded(session),
            Ok(Ok(Some(Change::NoSession))) => Touched::Ended,
            // The row is locked, or the touch failed, panicked or takes long.
            _ => Touched::NotYet,
        }
    }

    /// Touches a session without an idle timeout, in the background. It does not wait for other
    /// touches.
    pub(crate) async fn touch_in_background(
        self: &Arc<Self>,
        id: SessionId,
        granularity: Duration,
    ) {
        if let Some(entered) = self.enter(id).filter(|entered| entered.comes_first) {
            entered.touch(granularity).await;
        }
    }

    /// Returns `None` if the session is being touched already, or if too many wait.
    fn enter(self: &Arc<Self>, id: SessionId) -> Option<Entered<S>> {
        let mut sessions = lock(&self.sessions);
        let comes_first = sessions.is_empty();
        (sessions.len() < MOST_WAITING && sessions.insert(id)).then(|| Entered {
            toucher: Arc::clone(self),
            id,
            comes_first,
        })
    }
}

/// A session that is touched, or waits for it. It leaves when this is dropped, also after a panic.
struct Entered<S: SessionStore> {
    toucher: Arc<Toucher<S>>,
    id: SessionId,
    /// Whether no other session was there.
    comes_first: bool,
}

impl<S: SessionStore> Entered<S> {
    /// Waits for the turn and touches the session. Returns `None` after a failure, which the
    /// store's guard has recorded.
    async fn touch(self, granularity: Duration) -> Option<Change> {
        let _turn = self.toucher.turn.acquire().await.ok()?;
        self.toucher.store.touch(self.id, granularity).await
    }
}

impl<S: SessionStore> Drop for Entered<S> {
    fn drop(&mut self) {
        lock(&self.toucher.sessions).remove(&self.id);
    }
}
