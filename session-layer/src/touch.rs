//! touch: the use of a session is noted in the store, so that its idle timeout runs anew.
//!
//! A validation reads that a session is alive and sees that its use was not noted for a while
//! (`validate/decide.rs`: a quarter of the idle timeout, or a minute). With an idle timeout the touch comes before
//! the answer, for it decides whether the session lives on; without one it only dates the user's list of
//! sessions, and goes on behind.
//!
//! One at a time per session, and no answer waits for long: of the many requests that find a popular session
//! due at once one touches it; the others have read that it is alive, and are answered. The same where the row is
//! locked by somebody, or the store refuses every change: the session is served, and soon tried again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::cache::SessionCache;
use crate::driver::Driver;
use crate::error::StoreError;
use crate::session::{Session, SessionId};
use crate::store::{Change, SessionStore};

/// Of the budget a touch before the answer may have this part: the read before it may have taken the most. It goes
/// on when nobody waits for it.
const SHARE: u32 = 5;

/// Sessions that this node is touching.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touches(Arc<Mutex<HashSet<SessionId>>>);

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
    fn begin(&self, id: SessionId) -> Option<Turn> {
        let begun = self.lock().insert(id);
        begun.then(|| Turn {
            touches: self.clone(),
            id,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<SessionId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until it is dropped nobody else touches the session.
struct Turn {
    touches: Touches,
    id: SessionId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.touches.lock().remove(&self.id);
    }
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// A touch before the answer.
    pub(crate) async fn touch(self: &Arc<Self>, id: SessionId, granularity: Duration) -> Touched {
        let Some(turn) = self.touches.begin(id) else {
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
            // Somebody has locked the row; or it failed, or takes long.
            Ok(Ok(Ok(Change::Conflict) | Err(())) | Err(_)) | Err(_) => Touched::NotYet,
        }
    }

    /// A touch behind the answer.
    pub(crate) async fn touch_behind(&self, id: SessionId, granularity: Duration) {
        let Some(_turn) = self.touches.begin(id) else {
            return;
        };
        if let Err(error) = self.store.touch(id, granularity).await {
            self.note_touch(&error);
        }
    }

    fn note_touch(&self, error: &StoreError) {
        self.troubles
            .note(Instant::now(), format!("touching a session: {error}"));
    }
}
