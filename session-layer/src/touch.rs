//! touch: the use of a session is noted in the store, so that its idle timeout runs anew.
//!
//! A validation reads that a session is alive and sees that its use was not noted for a while
//! (`validate/decide.rs`: a quarter of the idle timeout, or a minute). With an idle timeout the touch comes before
//! the answer, for it decides whether the session lives on; without one it only dates the user's list of
//! sessions, and goes on behind.
//!
//! One at a time, and no answer waits for long: of the many requests that find a popular session due at once one
//! touches it; the others have read that it is alive, and are answered. The same where the row is locked by
//! somebody, or the store refuses every change: the session is served, and soon tried again. So touches never
//! take from reads what these need, however many sessions are due and whatever holds a touch up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::cache::SessionCache;
use crate::driver::Driver;
use crate::error::{StoreError, StoreErrorKind};
use crate::session::{Session, SessionId};
use crate::store::{Change, SessionStore};

/// Of the budget a touch before the answer may have this part: the read before it may have taken the most. It goes
/// on when nobody waits for it.
const SHARE: u32 = 5;

/// The one touch of this node that may be under way. `PostgresStore` keeps a connection for it: a thousand touches
/// a second, for they wait for no disk.
#[derive(Debug, Clone)]
pub(crate) struct Touches(Arc<Semaphore>);

impl Default for Touches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// What a touch before the answer has brought.
pub(crate) enum Touched {
    /// The session as it is now.
    Noted(Session),
    /// It has ended since it was read.
    Ended,
    /// Nothing yet: another request does it, or the store can't.
    NotYet,
}

impl Touches {
    /// A turn, unless somebody has it.
    fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// A touch before the answer.
    pub(crate) async fn touch(self: &Arc<Self>, id: SessionId, granularity: Duration) -> Touched {
        let Some(turn) = self.touches.begin() else {
            return Touched::NotYet;
        };
        let driver = Arc::clone(self);
        let touching = self.tasks.spawn(async move {
            let touched = driver.store.touch(id, granularity).await;
            drop(turn);
            touched.map_err(|error| driver.note_touch(&error))
        });
        match timeout(self.settings.budget / SHARE, touching).await {
            Ok(Ok(Ok(Change::Made { session, .. }))) => Touched::Noted(session),
            Ok(Ok(Ok(Change::NoSession))) => Touched::Ended,
            // Somebody has locked the row; or it failed, or panicked, or takes long.
            _ => Touched::NotYet,
        }
    }

    /// A touch behind the answer.
    pub(crate) async fn touch_behind(&self, id: SessionId, granularity: Duration) {
        let Some(_turn) = self.touches.begin() else {
            return;
        };
        if let Err(error) = self.store.touch(id, granularity).await {
            self.note_touch(&error);
        }
    }

    fn note_touch(&self, error: &StoreError) {
        let news = self
            .troubles
            .note(Instant::now(), format!("touching a session: {error}"));
        // Of a store that can't be reached, the reads tell.
        if news && error.kind() != StoreErrorKind::Unreachable {
            tracing::warn!(
                %error,
                "the use of a session could not be noted: it is served, and an idle timeout may come early"
            );
        }
    }
}
