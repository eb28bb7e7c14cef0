//! touch: the use of a session is noted in the store, so that its idle timeout runs anew.
//!
//! A validation reads that a session is alive and sees that its use was not noted for a while
//! (`validate/decide.rs`: a quarter of the idle timeout, or a minute). With an idle timeout the touch comes before
//! the answer, for it decides whether the session lives on; without one it only dates the user's list of
//! sessions, and goes on behind.
//!
//! One at a time, in turn, and no answer waits for long: of the many requests that find a popular session due at once
//! one touches it; the others have read that it is alive, and are answered. The same where others have their turn
//! first, where the row is locked by somebody, or the store refuses every change: the session is served, its touch
//! is made as soon as it can be, and the next use tries again. So touches never take from reads what these need,
//! however many sessions are due and whatever holds a touch up; and no use that could be noted is lost.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cache::SessionCache;
use crate::deadline;
use crate::driver::Driver;
use crate::session::{Session, SessionId};
use crate::store::{Change, SessionStore};

/// Of the budget a touch before the answer may have this part: the read before it may have taken the most. It goes
/// on when nobody waits for it.
const SHARE: u32 = 5;
/// How many sessions may wait for their turn: some 10 MiB. Of more, the next use tries again.
const MOST: usize = 10_000;

/// Whose touch is under way, or waits for its turn. `PostgresStore` keeps a connection for the one that has it: a
/// thousand touches a second, for they wait for no disk.
#[derive(Debug)]
pub(crate) struct Touches {
    turn: Semaphore,
    sessions: Mutex<HashSet<SessionId>>,
}

impl Default for Touches {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            sessions: Mutex::default(),
        }
    }
}

/// What a touch before the answer has brought.
pub(crate) enum Touched {
    /// The session as it is now.
    Noted(Session),
    /// It has ended since it was read.
    Ended,
    /// Nothing yet: another request does it, others have their turn first, or the store can't.
    NotYet,
}

impl Touches {
    /// `None`: this session is among them already, or there are too many.
    fn enter(self: &Arc<Self>, id: SessionId) -> Option<Entered> {
        let mut sessions = self.lock();
        let alone = sessions.is_empty();
        (sessions.len() < MOST && sessions.insert(id)).then(|| Entered {
            touches: Arc::clone(self),
            id,
            alone,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<SessionId>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that is being touched, or waits for it; until this is dropped, also by a panic of the touch.
struct Entered {
    touches: Arc<Touches>,
    id: SessionId,
    /// Nobody was there before.
    alone: bool,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.touches.lock().remove(&self.id);
    }
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// A touch before the answer. Who has to wait for others does so only where the answer is to carry the new end to
    /// the client, in a cookie that is `persistent`.
    pub(crate) async fn touch(
        self: &Arc<Self>,
        id: SessionId,
        granularity: Duration,
        persistent: bool,
    ) -> Touched {
        let Some(entered) = self.touches.enter(id) else {
            return Touched::NotYet;
        };
        let waits = entered.alone || persistent;
        let driver = Arc::clone(self);
        let touching = self
            .tasks
            .spawn(async move { driver.touch_in_turn(entered, granularity).await });
        if !waits {
            return Touched::NotYet;
        }
        match timeout(self.settings.budget / SHARE, touching).await {
            Ok(Ok(Some(Change::Made { session, .. }))) => Touched::Noted(session),
            Ok(Ok(Some(Change::NoSession))) => Touched::Ended,
            // Somebody has locked the row; or it failed, or panicked, or takes long.
            _ => Touched::NotYet,
        }
    }

    /// A touch behind the answer, of a session without an idle timeout: not where others wait for theirs.
    pub(crate) async fn touch_behind(&self, id: SessionId, granularity: Duration) {
        let entered = self.touches.enter(id);
        if let Some(entered) = entered.filter(|entered| entered.alone) {
            self.touch_in_turn(entered, granularity).await;
        }
    }

    /// `None`: it failed, which was noted.
    async fn touch_in_turn(&self, entered: Entered, granularity: Duration) -> Option<Change> {
        let _turn = self.touches.turn.acquire().await.ok()?;
        // Others wait for their turn: it has a read's deadline.
        let touching = self.store.touch(entered.id, granularity);
        let touched = deadline::question(self.for_validation(), touching).await;
        self.noted_touch(touched)
    }
}
