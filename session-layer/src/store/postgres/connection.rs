//! Connections. Every wait for one is limited, and none returns to the pool with an unread reply.
//!
//! This module adds two things to sqlx's pool. Without them, a network that drops packets would
//! empty it for good:
//!
//! - A future dropped between query and reply returns its connection to the pool. Its cleanup there
//!   waits for a reply that never comes, and keeps the permit. A [`Connection`] that was not
//!   [released](Connection::release) leaves the pool instead.
//! - sqlx pings a connection when it is released, without a timeout. Here the ping has one.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect_failure::{ConnectFailure, InUse};
use super::errors;
use crate::model::error::StoreError;
use crate::model::lock::lock;

/// How long opening a connection may continue after its caller timed out. A distant database with
/// TLS takes longer than one read may, and could otherwise never be reached.
pub(super) const OPENING: Duration = Duration::from_secs(5);
/// How long the first attempt to connect may take. Each attempt that takes longer doubles the
/// limit, up to [`OPENING`]. A packet sent while the server or its network was away may get no
/// reply (a container that starts, a retransmission after a second). A new attempt gets one at
/// once.
const ATTEMPT: Duration = Duration::from_millis(250);
/// The maximum of concurrent attempts to connect. Ten connections are still open after a few tens
/// of ms. After an attempt that timed out, they are serialized. A hanging Postgres must process and
/// drop all pending connections when it recovers, and is silent meanwhile.
const OPENED_AT_ONCE: u32 = 3;
/// How soon a connection that was closed in another pool is opened here. sqlx may wait for tens of
/// ms between attempts.
const TAKEN_WITHIN: Duration = Duration::from_millis(200);
/// How long the ping may take when a connection is released.
const RELEASING: Duration = Duration::from_secs(1);

/// The pool, which is the store's own or the application's.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pool: PgPool,
    /// Whether the pool is the store's own. It then has no hooks to run, and the store closes it.
    own: bool,
    /// Permits to open a connection for a caller, who may have left by then.
    opening: Arc<Semaphore>,
    /// The current limit of an attempt, in ms.
    attempt_limit: Arc<AtomicU64>,
    failure: ConnectFailure,
    state: PoolState,
    /// The store's other pools, which close a connection if this one gets none.
    siblings: Arc<[Sibling]>,
}

/// The state of a pool that a released connection needs. Clones share it.
#[derive(Debug, Clone, Default)]
struct PoolState {
    /// Notified when a connection has been released.
    returned: Arc<Notify>,
    /// Whether another pool needs a connection. The next one that is released is then closed.
    close_next: Arc<AtomicBool>,
}

/// Another pool of the same store.
#[derive(Debug)]
struct Sibling {
    connections: Connections,
    /// The number of connections that it keeps.
    keeps: u32,
    /// When it last closed a connection for another pool.
    closed: Mutex<Option<Instant>>,
}

impl Connections {
    pub(super) fn new(pool: PgPool, own: bool) -> Self {
        Self {
            pool,
            own,
            opening: Arc::new(Semaphore::new(OPENED_AT_ONCE as usize)),
            attempt_limit: Arc::default(),
            failure: ConnectFailure::default(),
            state: PoolState::default(),
            siblings: Arc::default(),
        }
    }

    /// Lets this pool take a connection from `other` if the server has none left for it. `other`
    /// keeps this many.
    pub(super) fn taking_from(self, other: &Self, keeps: u32) -> Self {
        let sibling = Sibling {
            // `other` gets no siblings, so it takes no replacement from a third pool.
            connections: Self { siblings: Arc::default(), ..other.clone() },
            keeps,
            closed: Mutex::default(),
        };
        Self { siblings: Arc::new([sibling]), ..self }
    }

    /// Returns whether the pool is the store's own.
    pub(super) fn is_own(&self) -> bool {
        self.own
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Returns the maximum of connections, which is also how many in a row may be broken.
    pub(super) fn most(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// Acquires a connection that worked when it was last used. Returns the reason if Postgres
    /// rejects new ones and the store's own pool has none left. An application's pool is waited for
    /// until the deadline, because the application may release connections.
    pub(super) async fn acquire(&self) -> Result<Connection, StoreError> {
        if !self.own {
            return self.open().await;
        }
        // An idle connection of the store's own pool is used as it is. An application's pool may
        // have hooks that prepare it, which run in `acquire` only.
        if let Some(idle) = self.pool.try_acquire() {
            return Ok(self.wrap(idle));
        }
        if let Some(failed) = self.failure.now() {
            return Err(failed);
        }
        let opened = async {
            self.failure.until_over(&self.pool).await;
            self.open().await
        };
        // If the server has no connection left, sqlx does not notice a released one.
        let returned = async {
            loop {
                self.state.returned.notified().await;
                if let Some(idle) = self.pool.try_acquire() {
                    return idle;
                }
            }
        };
        let siblings = Arc::clone(&self.siblings);
        let make_room = move || siblings.iter().any(Sibling::close_one);
        let limit = || self.attempt_limit();
        let failed = self.failure.detect(&self.pool, limit, make_room);
        tokio::select! {
            biased;
            opened = opened => opened,
            idle = returned => Ok(self.wrap(idle)),
            failed = failed => Err(failed),
        }
    }

    /// Acquires a connection as [`acquire`](Self::acquire) does, with a timeout at `by`, which is
    /// `waited` after the call.
    pub(super) async fn acquire_by(
        &self,
        by: Instant,
        waited: Duration,
    ) -> Result<Connection, StoreError> {
        let got = timeout_at(by, self.acquire()).await;
        got.unwrap_or_else(|_elapsed| Err(errors::no_connection(waited, self.all_in_use())))
    }

    /// Opens a connection. The attempt continues if the caller leaves. Otherwise each caller who
    /// left would leave a connection behind, and a hanging Postgres must process and drop all of
    /// them when it recovers. With 200 callers a second, that took a second and a half.
    async fn open(&self) -> Result<Connection, StoreError> {
        let alone = self.own && self.attempt_limit() > ATTEMPT;
        let turns = if alone { OPENED_AT_ONCE } else { 1 };
        let permit = Arc::clone(&self.opening).acquire_many_owned(turns).await;
        let permit = permit.map_err(|_closed| self.explain(sqlx::Error::PoolClosed))?;
        let (give, get) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move {
            let opened = loop {
                match this.attempt().await {
                    None if !give.is_closed() => {}
                    None => break Err(this.explain(sqlx::Error::PoolTimedOut)),
                    Some(opened) => break opened,
                }
            };
            drop(permit);
            if let Err(Ok(unwanted)) = give.send(opened) {
                unwanted.release();
            }
        });
        match get.await {
            Ok(opened) => opened,
            Err(_) => Err(self.explain(sqlx::Error::WorkerCrashed)),
        }
    }

    /// Acquires a connection that has just replied to a ping. A change needs one: a change lost to
    /// a connection that broke while idle would count as perhaps committed.
    ///
    /// `patience` limits one ping, because another connection may reply. `wait` limits all.
    pub(super) async fn acquire_checked(
        &self,
        patience: Duration,
        wait: Duration,
    ) -> Result<Connection, StoreError> {
        let by = Instant::now() + wait;
        let mut broken = 0;
        loop {
            let mut connection = self.acquire_by(by, wait).await?;
            let ping_by = by.min(Instant::now() + patience);
            match timeout_at(ping_by, connection.ping()).await {
                Ok(Ok(())) => return Ok(connection),
                Ok(Err(error)) if broken >= self.most() => return Err(self.explain(error)),
                Ok(Err(_)) | Err(_) => broken += 1,
            }
        }
    }

    /// Makes one attempt, and returns `None` if it timed out. In an application's pool it has a
    /// place in a queue, and keeps it.
    async fn attempt(&self) -> Option<Result<Connection, StoreError>> {
        let limit = if self.own { self.attempt_limit() } else { OPENING };
        let began = Instant::now();
        let opened = timeout(limit, self.wait()).await.ok();
        let next = match opened {
            None => limit * 2,
            Some(_) => began.elapsed() * 2,
        };
        let next = u64::try_from(next.as_millis()).unwrap_or(u64::MAX);
        self.attempt_limit.store(next, Ordering::Relaxed);
        opened
    }

    fn attempt_limit(&self) -> Duration {
        let learnt = Duration::from_millis(self.attempt_limit.load(Ordering::Relaxed));
        learnt.clamp(ATTEMPT, OPENING)
    }

    async fn wait(&self) -> Result<Connection, StoreError> {
        self.pool.acquire().await.map(|got| self.wrap(got)).map_err(|error| self.explain(error))
    }

    fn wrap(&self, in_use: PoolConnection<Postgres>) -> Connection {
        Connection(Some((in_use, self.failure.count_use(), self.state.clone())))
    }

    fn explain(&self, error: sqlx::Error) -> StoreError {
        match (error, self.all_in_use()) {
            (sqlx::Error::PoolTimedOut, busy @ Some(_)) => {
                errors::no_connection(self.pool.options().get_acquire_timeout(), busy)
            }
            (error, _) => errors::of_connecting(error),
        }
    }

    /// Returns the number of connections, if all that the pool may have are in use.
    fn all_in_use(&self) -> Option<u32> {
        let size = self.pool.size();
        (size >= self.most() && self.pool.num_idle() == 0).then_some(size)
    }

    /// Closes the pool if it is the store's own.
    pub(super) async fn close(&self) {
        if self.own {
            // It waits for connections in use. They are released or dropped by then.
            let _ = timeout(OPENING, self.pool.close()).await;
        }
    }
}

/// A connection in use. It is closed if it is dropped before its release, because its caller left
/// before the end of a reply.
#[derive(Debug)]
pub(super) struct Connection(Option<(PoolConnection<Postgres>, InUse, PoolState)>);

impl Sibling {
    /// Closes a connection of this pool: an idle one now, or else the next one released. Returns
    /// `false` if it has none to spare. It closes one at a time, because the server has none left
    /// until the other pool has used it.
    fn close_one(&self) -> bool {
        let Self { connections, keeps, closed } = self;
        let mut closed = lock(closed);
        if closed.is_some_and(|closed| closed.elapsed() < TAKEN_WITHIN) {
            return true;
        }
        if connections.pool.size() <= *keeps {
            return false;
        }
        *closed = Some(Instant::now());
        match connections.pool.try_acquire() {
            Some(idle) => {
                tokio::spawn(timeout(RELEASING, idle.close()));
            }
            None => connections.state.close_next.store(true, Ordering::SeqCst),
        }
        true
    }
}

impl Connection {
    /// Releases the connection to the pool, after every reply was read to its end.
    pub(super) fn release(mut self) {
        if let Some((mut connection, in_use, state)) = self.0.take() {
            tokio::spawn(async move {
                // A timeout drops these futures, which closes the connection.
                if state.close_next.swap(false, Ordering::SeqCst) {
                    let _ = timeout(RELEASING, connection.close()).await;
                } else {
                    let _ = timeout(RELEASING, connection.return_to_pool()).await;
                }
                drop(in_use);
                state.returned.notify_one();
            });
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some((connection, ..)) = self.0.take() {
            drop(connection.detach());
        }
    }
}

const PRESENT: &str = "a connection is present until it is released";

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0.as_ref().expect(PRESENT).0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0.as_mut().expect(PRESENT).0
    }
}
