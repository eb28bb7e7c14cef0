//! A Postgres that lets nobody in says so at once, and so do we.
//!
//! sqlx's pool tries again and again where connecting is refused (nobody listens; 57P03, it is starting;
//! 53300, no connection is left) and reports in the end that time is up. So while callers wait for a
//! connection and none of ours is open, one connects past the pool, on behalf of all of them, to hear the
//! reason. Once it is let in, all may open theirs (`connection.rs`).
//!
//! ```text
//! callers open theirs ── none after PATIENCE ──▶ one connects ── let in, or no answer ──▶ callers open theirs
//!                                                 ▲    │ refused
//!                             at the next caller  │    ▼
//!                       one asks, the others wait ◀── HOLDS: all are told so at once
//! ```
//!
//! A [`LATELY`] after the last refusal nobody has asked for long, and it begins anew. A connection of ours that is in
//! use, or idle, stands for "let in" throughout.

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
/// How long the answer holds. Each of a node's pools then asks ten times a second at most, which harms no server
/// that is starting.
const HOLDS: Duration = Duration::from_millis(100);
/// What was heard longer ago than this, on top, says nothing: nobody has asked since.
const LATELY: Duration = Duration::from_secs(1);

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

    /// Waits until it is over. Of a server that turns everybody away one asks whether it still does; else all
    /// who want a connection would, and keep it busy with refusing.
    /// (Where some of ours are in use, or have come back, those are waited for as ever.)
    pub(super) async fn over(&self, pool: &PgPool) {
        while self.lately() && self.lent.load(Ordering::SeqCst) == 0 && pool.num_idle() == 0 {
            sleep(PATIENCE / 4).await;
        }
    }

    /// Were we refused, and not let in since? What was heard long ago says nothing.
    fn lately(&self) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard
            .as_ref()
            .is_some_and(|heard| Instant::now() < heard.until + LATELY)
    }

    /// Ends with the reason once we are refused. For one who waits for a connection meanwhile. Whoever refuses
    /// does so at once: what takes longer than an attempt may is no refusal.
    pub(super) async fn hear(
        &self,
        pool: &PgPool,
        attempt_limit: impl Fn() -> Duration,
    ) -> StoreError {
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
            let (this, options, limit) = (self.clone(), pool.connect_options(), attempt_limit());
            let hearing = tokio::spawn(async move {
                let _turn = turn;
                let connecting = async {
                    let connection = options.connect().await?;
                    connection.close().await
                };
                let refused = timeout(limit, connecting).await;
                this.note(refused.unwrap_or(Ok(())).err())
            });
            if let Ok(Some(refused)) = hearing.await {
                return refused;
            }
        }
    }

    /// Tells all who ask within the next moment.
    fn note(&self, refused: Option<sqlx::Error>) -> Option<StoreError> {
        let refused = refused.map(errors::of_connecting);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = refused.as_ref().map(|refused| Heard {
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
