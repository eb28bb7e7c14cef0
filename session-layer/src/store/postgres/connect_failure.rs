//! Fast errors while Postgres rejects connections.
//!
//! sqlx's pool retries if the port is closed, if Postgres is starting (57P03), and if no connection
//! is left (53300). In the end it reports a timeout without the reason. Therefore, while callers
//! wait and the pool has no open connection, one probe connects outside the pool and learns the
//! reason for all of them. Once a probe succeeds, all callers may open connections
//! (`connection.rs`).
//!
//! ```text
//! callers connect ── none after CONNECT_SILENCE ──▶ probe ── success or timeout ──▶ callers connect
//!                                             ▲  │ rejected
//!                             the next caller │  ▼
//!                                      VALID_FOR: all callers get the error at once
//! ```
//!
//! A failure is forgotten when no probe has confirmed it for [`RECENT`] after its end. A connection
//! that is in use or idle counts as success throughout.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, PgPool};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::errors;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::lock::lock;

/// How long a caller waits before a probe. Connecting to a healthy server in the same network takes
/// a few ms.
const CONNECT_SILENCE: Duration = Duration::from_millis(20);
/// How long the result of a probe is valid. Each of a node's pools then probes at most ten times a
/// second, which does not harm a server that is starting.
const VALID_FOR: Duration = Duration::from_millis(100);
/// How long after its validity a failure still counts as recent.
const RECENT: Duration = Duration::from_secs(1);

/// The last known failure to connect. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectFailure {
    /// Connections of the pool in use. One that is released may serve the next caller.
    in_use: Arc<AtomicUsize>,
    last: Arc<StdMutex<Option<LastFailure>>>,
    /// Serializes probes.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct LastFailure {
    until: Instant,
    kind: StoreErrorKind,
    why: String,
}

impl ConnectFailure {
    /// Counts a connection while it is in use.
    pub(super) fn count_use(&self) -> InUse {
        self.in_use.fetch_add(1, Ordering::SeqCst);
        InUse(Arc::clone(&self.in_use))
    }

    /// Returns the last failure if it is still valid and no connection is in use.
    pub(super) fn now(&self) -> Option<StoreError> {
        let last = lock(&self.last);
        let last = last.as_ref()?;
        let holds = Instant::now() < last.until && self.in_use.load(Ordering::SeqCst) == 0;
        holds.then(|| StoreError::new(last.kind, last.why.clone()))
    }

    /// Waits until the failure is over. Only the probe connects meanwhile, because many callers
    /// would keep the server busy with rejections. If connections of the pool are in use or idle,
    /// it returns at once.
    pub(super) async fn until_over(&self, pool: &PgPool) {
        while self.is_recent() && self.in_use.load(Ordering::SeqCst) == 0 && pool.num_idle() == 0 {
            sleep(CONNECT_SILENCE / 4).await;
        }
    }

    /// Returns whether the last probe failed, and not long ago.
    fn is_recent(&self) -> bool {
        let last = lock(&self.last);
        last.as_ref().is_some_and(|last| Instant::now() < last.until + RECENT)
    }

    /// Returns the reason once a probe is rejected, for a caller that waits for a connection
    /// meanwhile. A rejection is immediate, so a probe that times out is none.
    ///
    /// If the server has no connection left, the probe is repeated before that is reported. The
    /// pool's own attempt may have got the last connection. `make_room` may also close a connection
    /// of another pool, and returns whether it does.
    pub(super) async fn detect(
        &self,
        pool: &PgPool,
        attempt_limit: impl Fn() -> Duration,
        make_room: impl Fn() -> bool + Clone + Send + 'static,
    ) -> StoreError {
        let mut full_before = false;
        loop {
            sleep(CONNECT_SILENCE).await;
            if self.in_use.load(Ordering::SeqCst) > 0 {
                continue;
            }
            let turn = Arc::clone(&self.turn).lock_owned().await;
            if let Some(failed) = self.now() {
                return failed;
            }
            // The probe continues if the caller leaves, and no other starts meanwhile. Otherwise
            // each of many callers would leave a connection behind. A hanging Postgres would have
            // to process all of them when it recovers.
            let (this, options, limit) = (self.clone(), pool.connect_options(), attempt_limit());
            let make_room = make_room.clone();
            let probing = tokio::spawn(async move {
                let _turn = turn;
                let connecting = async {
                    let connection = options.connect().await?;
                    connection.close().await
                };
                let failed = timeout(limit, connecting).await.unwrap_or(Ok(())).err();
                let is_full = failed.as_ref().is_some_and(errors::is_full);
                if is_full && (make_room() || !full_before) {
                    return None;
                }
                this.record(failed)
            });
            match probing.await {
                Ok(Some(failed)) => return failed,
                _ => full_before = true,
            }
        }
    }

    /// Records the result of a probe, and returns the error.
    fn record(&self, failed: Option<sqlx::Error>) -> Option<StoreError> {
        let failed = failed.map(errors::of_connecting);
        let mut last = lock(&self.last);
        *last = failed.as_ref().map(|failed| LastFailure {
            until: Instant::now() + VALID_FOR,
            kind: failed.kind(),
            why: failed.to_string(),
        });
        failed
    }
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct InUse(Arc<AtomicUsize>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
