//! The idle connections of the store's own pool.
//!
//! sqlx pings each connection that it gets back, which doubles the round trips of a read. A
//! released connection is therefore kept here for the next caller. sqlx gets it back if no caller
//! takes it within [`UNUSED`], or at its release once it has been away for [`AWAY`]. sqlx then
//! pings it, and closes it if it is too old.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connect_failure::InUse;
use crate::model::lock::lock;

/// How long a connection is kept if no caller takes it.
const UNUSED: Duration = Duration::from_secs(1);
/// How long a connection is away from sqlx's pool at most, so that its lifetime is respected.
const AWAY: Duration = Duration::from_secs(60);
/// How long a ping or a close may take when a connection is given back.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// A connection that is away from sqlx's pool.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) connection: PoolConnection<Postgres>,
    _in_use: InUse,
    taken: Instant,
}

impl Held {
    pub(super) fn new(connection: PoolConnection<Postgres>, in_use: InUse) -> Self {
        Self { connection, _in_use: in_use, taken: Instant::now() }
    }

    /// Gives the connection back to sqlx. A timeout closes it.
    async fn give_back(mut self) {
        let _ = timeout(GIVING_BACK, self.connection.return_to_pool()).await;
    }

    /// Closes the connection.
    pub(super) async fn close(self) {
        let _ = timeout(GIVING_BACK, self.connection.close()).await;
    }
}

/// The idle connections of a pool. An application's pool keeps none, because its hooks run when
/// sqlx gets a connection back.
#[derive(Debug)]
pub(super) struct Idle {
    keeps: bool,
    kept: Mutex<Kept>,
    /// Notified when a connection was released, or closed.
    pub(super) returned: Notify,
    /// Whether another pool needs a connection. The next one that is released is then closed.
    close_next: AtomicBool,
    /// Ends the task that gives unused connections back.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Kept {
    /// The connections, and when each was released. The last one is taken first.
    connections: Vec<(Held, Instant)>,
    /// Whether the pool is being closed. No connection is kept any more.
    is_closed: bool,
}

impl Drop for Idle {
    /// Closes the connections. Given to sqlx, they would need a runtime, which may have ended.
    fn drop(&mut self) {
        self.stop.cancel();
        for (held, _) in lock(&self.kept).connections.drain(..) {
            drop(held.connection.detach());
        }
    }
}

impl Idle {
    /// Must be called within a runtime if connections are kept.
    pub(super) fn new(keeps: bool) -> Arc<Self> {
        let idle = Arc::new(Self {
            keeps,
            kept: Mutex::default(),
            returned: Notify::new(),
            close_next: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        if keeps {
            tokio::spawn(give_back_unused(Arc::downgrade(&idle), idle.stop.clone()));
        }
        idle
    }

    /// Takes the connection that was released last.
    pub(super) fn take(&self) -> Option<Held> {
        lock(&self.kept).connections.pop().map(|(held, _)| held)
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.kept).connections.len()
    }

    pub(super) fn close_next(&self) {
        self.close_next.store(true, Ordering::SeqCst);
    }

    /// Takes a connection back from its caller. After an error it is given to sqlx, because a
    /// rollback may have to be sent.
    pub(super) fn release(self: &Arc<Self>, held: Held, failed: bool) {
        let close = self.close_next.swap(false, Ordering::SeqCst);
        if !close && !failed && self.keeps && held.taken.elapsed() < AWAY {
            let mut kept = lock(&self.kept);
            if !kept.is_closed {
                kept.connections.push((held, Instant::now()));
                drop(kept);
                self.returned.notify_one();
                return;
            }
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if close {
                held.close().await;
            } else {
                held.give_back().await;
            }
            this.returned.notify_one();
        });
    }

    /// Takes the connections that were released at `before` or earlier.
    fn take_unused(&self, before: Instant) -> Vec<(Held, Instant)> {
        let mut kept = lock(&self.kept);
        let unused = kept.connections.partition_point(|(_, released)| *released <= before);
        kept.connections.drain(..unused).collect()
    }

    /// Gives all connections back, for the end of the pool.
    pub(super) async fn give_all_back(&self) {
        self.stop.cancel();
        let all = {
            let mut kept = lock(&self.kept);
            kept.is_closed = true;
            std::mem::take(&mut kept.connections)
        };
        join_all(all.into_iter().map(|(held, _)| held.give_back())).await;
    }
}

/// Gives unused connections back, those of one round at once. It ends with the runtime on which the
/// store was built.
async fn give_back_unused(idle: Weak<Idle>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(UNUSED)).await.is_some() {
        let Some(idle) = idle.upgrade() else { return };
        let unused = idle.take_unused(Instant::now() - UNUSED);
        join_all(unused.into_iter().map(async |(held, _)| {
            held.give_back().await;
            idle.returned.notify_one();
        }))
        .await;
    }
}
