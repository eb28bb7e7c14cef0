//! The idle connections of the store's own pool.
//!
//! sqlx pings each connection that it gets back, which doubles the round trips of a read. A
//! released connection is therefore kept here for the next caller. sqlx gets it back if no caller
//! takes it within [`UNUSED`], or at its release once it has been away for [`AWAY`]. sqlx then
//! pings it, and closes it if it is too old.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

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
}

#[derive(Debug, Default)]
struct Kept {
    /// The connections, and when each was released. The last one is taken first.
    connections: Vec<(Held, Instant)>,
    /// Whether a task gives unused connections back.
    has_task: bool,
}

impl Idle {
    pub(super) fn new(keeps: bool) -> Arc<Self> {
        Arc::new(Self {
            keeps,
            kept: Mutex::default(),
            returned: Notify::new(),
            close_next: AtomicBool::new(false),
        })
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

    /// Takes a connection back from its caller.
    pub(super) fn release(self: &Arc<Self>, held: Held, pool: &PgPool) {
        let close = self.close_next.swap(false, Ordering::SeqCst);
        if !close && self.keeps && held.taken.elapsed() < AWAY && !pool.is_closed() {
            self.keep(held);
            self.returned.notify_one();
            return;
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

    fn keep(self: &Arc<Self>, held: Held) {
        let mut kept = lock(&self.kept);
        kept.connections.push((held, Instant::now()));
        if !std::mem::replace(&mut kept.has_task, true) {
            tokio::spawn(give_back_unused(Task(Arc::downgrade(self))));
        }
    }

    /// Takes the connections that were released at `before` or earlier.
    fn take_unused(&self, before: Instant) -> Vec<(Held, Instant)> {
        let mut kept = lock(&self.kept);
        let unused = kept.connections.partition_point(|(_, released)| *released <= before);
        kept.connections.drain(..unused).collect()
    }

    /// Gives all connections back, for the end of the pool.
    pub(super) async fn give_all_back(&self) {
        let all = std::mem::take(&mut lock(&self.kept).connections);
        for (held, _) in all {
            held.give_back().await;
        }
    }
}

/// The task that gives unused connections back. Its drop records its end, also if it ended with its
/// runtime.
struct Task(Weak<Idle>);

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(idle) = self.0.upgrade() {
            lock(&idle.kept).has_task = false;
        }
    }
}

/// Gives unused connections back until none is kept.
async fn give_back_unused(mut task: Task) {
    loop {
        sleep(UNUSED).await;
        let Some(idle) = task.0.upgrade() else { return };
        for (held, _) in idle.take_unused(Instant::now() - UNUSED) {
            held.give_back().await;
            idle.returned.notify_one();
        }
        let mut kept = lock(&idle.kept);
        if kept.connections.is_empty() {
            // Recorded under the lock, so that the next connection to be kept starts a task.
            kept.has_task = false;
            drop(kept);
            task.0 = Weak::new();
            return;
        }
    }
}
