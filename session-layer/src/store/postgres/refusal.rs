//! A Postgres that lets nobody in says so at once, and so do we.
//!
//! sqlx's pool tries again and again where connecting is refused (nobody listens; 57P03, it is starting;
//! 53300, no connection is left) and reports in the end that time is up. So while callers wait for a
//! connection and none of ours is open, one connects past the pool, on behalf of all of them, to hear the
//! reason. It holds for a moment, in which nobody waits; connecting goes on behind (`connection.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, PgPool};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::errors;
use crate::error::{StoreError, StoreErrorKind};

/// How long a caller waits before it asks what is the matter: connecting to a healthy server in the same
/// network takes a few ms.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long the answer holds. Ten connection attempts a second harm no server that is starting.
const HOLDS: Duration = Duration::from_millis(100);
/// How long hearing it may take. Whoever refuses does so at once; what takes longer is no refusal.
const HEARING: Duration = Duration::from_secs(1);

/// Whether we are let in, as far as known. Clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal {
    /// Connections of the pool that are lent: one that comes back may be the next caller's.
    lent: Arc<AtomicUsize>,
    heard: Arc<StdMutex<Option<Heard>>>,
    /// One asks at a time.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Heard {
    until: Instant,
    kind: StoreErrorKind,
    why: String,
}

impl Refusal {
    /// Counts a connection for as long as it is lent.
    pub(super) fn lend(&self) -> Lent {
        self.lent.fetch_add(1, Ordering::SeqCst);
        Lent(Arc::clone(&self.lent))
    }

    /// What was heard a moment ago, if none of our connections has been let in since.
    pub(super) fn now(&self) -> Option<StoreError> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.as_ref()?;
        let holds = Instant::now() < heard.until && self.lent.load(Ordering::SeqCst) == 0;
        holds.then(|| StoreError::new(heard.kind, heard.why.clone()))
    }

    /// Ends with the reason once we are refused. For one who waits for a connection meanwhile.
    pub(super) async fn hear(&self, pool: &PgPool) -> StoreError {
        loop {
            sleep(PATIENCE).await;
            if self.lent.load(Ordering::SeqCst) > 0 {
                continue;
            }
            let turn = Arc::clone(&self.turn).lock_owned().await;
            if let Some(refused) = self.now() {
                return refused;
            }
            // It goes on when the caller leaves, and nobody else connects meanwhile: else each of many callers
            // would leave a connection behind that a Postgres which hangs has to take in when it wakes up.
            let (this, options) = (self.clone(), pool.connect_options());
            let hearing = tokio::spawn(async move {
                let _turn = turn;
                let connecting = async {
                    let connection = options.connect().await?;
                    connection.close().await
                };
                let refused = timeout(HEARING, connecting).await.ok()?.err()?;
                Some(this.note(errors::of_connecting(refused, None)))
            });
            if let Ok(Some(refused)) = hearing.await {
                return refused;
            }
        }
    }

    /// Tells all who ask within the next moment.
    fn note(&self, refused: StoreError) -> StoreError {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = Some(Heard {
            until: Instant::now() + HOLDS,
            kind: refused.kind(),
            why: refused.to_string(),
        });
        refused
    }
}

/// A connection that is lent.
#[derive(Debug)]
pub(super) struct Lent(Arc<AtomicUsize>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
