//! Connections: lent, bounded in time, and never left behind in the middle of an answer.
//!
//! Two things that sqlx's pool does not do by itself, and that would empty it for good under a
//! network that swallows packets:
//!
//! - A future dropped between question and answer puts its connection back into the pool, where
//!   cleaning it up waits for an answer that never comes, and its permit with it. A [`Connection`]
//!   that was not [given back](Connection::give_back) leaves the pool instead.
//! - Giving a connection back pings it, without a limit. Here that has one.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::errors;
use super::refusal::{Lent, Refusal};
use crate::error::StoreError;

/// How long opening a connection may go on after its caller gave up: a database far away, with TLS,
/// takes longer than one read may, and would else never be reached at all.
pub(super) const OPENING: Duration = Duration::from_secs(5);
/// How long one attempt at a connection of ours may take at first. Each that takes longer doubles it for the next,
/// up to [`OPENING`]: what was sent while the server or its network was away may never be answered (a container
/// that starts, a packet sent again after a second), and a new attempt is at once.
const ATTEMPT: Duration = Duration::from_millis(250);
/// How many callers are being got a connection at once; the others wait for their turn. Ten connections are open
/// after a few tens of ms all the same. Once an attempt was not answered in time it is one at a time: a Postgres that
/// hangs has to take in and drop whatever it finds at its door when it wakes up, and answers nobody meanwhile.
const OPENED_AT_ONCE: u32 = 3;
/// How long the ping at giving a connection back may take.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// The pool, ours or the application's.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pool: PgPool,
    /// Ours: no hooks of the application's to run, and ours to close.
    own: bool,
    /// Turns at getting a connection for a caller, who may have gone by then.
    opening: Arc<Semaphore>,
    /// How many ms an attempt may take, as learnt.
    attempt_limit: Arc<AtomicU64>,
    refusal: Refusal,
}

impl Connections {
    pub(super) fn new(pool: PgPool, own: bool) -> Self {
        Self {
            pool,
            own,
            opening: Arc::new(Semaphore::new(OPENED_AT_ONCE as usize)),
            attempt_limit: Arc::default(),
            refusal: Refusal::default(),
        }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How many connections there may be: how many in a row may turn out to be dead.
    pub(super) fn most(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// A connection that was alive when it was last used. Where Postgres refuses new ones and none of ours
    /// is left, the reason. (Of an application's pool others may hold connections that come back: there
    /// it is waited for, to the deadline.)
    pub(super) async fn get(&self) -> Result<Connection, StoreError> {
        if !self.own {
            return self.open().await;
        }
        // An idle one of ours is taken as it is. An application's pool may have hooks that prepare
        // it, and they run in `acquire` only.
        if let Some(idle) = self.pool.try_acquire() {
            return Ok(self.lend(idle));
        }
        if let Some(refused) = self.refusal.now() {
            return Err(refused);
        }
        let opened = async {
            self.refusal.over(&self.pool).await;
            self.open().await
        };
        tokio::select! {
            biased;
            opened = opened => opened,
            refused = self.refusal.hear(&self.pool, || self.attempt_limit()) => Err(refused),
        }
    }

    /// [`get`](Self::get), given up then: `waited` after it was asked for.
    pub(super) async fn get_by(
        &self,
        by: Instant,
        waited: Duration,
    ) -> Result<Connection, StoreError> {
        let got = timeout_at(by, self.get()).await;
        got.unwrap_or_else(|_elapsed| Err(errors::no_connection(waited, self.all_in_use())))
    }

    /// A connection as soon as there is one. Opening it goes on when the caller leaves: of a Postgres that
    /// hangs, each caller who began to connect and left would else leave a connection behind that it has to
    /// take in and drop when it wakes up. (Of 200 callers a second that was a second and a half.)
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
                unwanted.give_back();
            }
        });
        match get.await {
            Ok(opened) => opened,
            Err(_) => Err(self.explain(sqlx::Error::WorkerCrashed)),
        }
    }

    /// A connection that answers. A change is sent over none that has not just answered, for one
    /// lost to a connection that died while it was idle would count as perhaps committed.
    ///
    /// `patience` is for one of them, since others may answer where this one does not; `wait` for all together.
    pub(super) async fn get_answering(
        &self,
        patience: Duration,
        wait: Duration,
    ) -> Result<Connection, StoreError> {
        let by = Instant::now() + wait;
        let mut dead = 0;
        loop {
            let mut connection = self.get_by(by, wait).await?;
            let ping_by = by.min(Instant::now() + patience);
            match timeout_at(ping_by, connection.ping()).await {
                Ok(Ok(())) => return Ok(connection),
                Ok(Err(error)) if dead >= self.most() => return Err(self.explain(error)),
                Ok(Err(_)) | Err(_) => dead += 1,
            }
        }
    }

    /// One attempt; `None`: it took too long. In an application's pool it has a place in a queue, and keeps it.
    async fn attempt(&self) -> Option<Result<Connection, StoreError>> {
        let limit = if self.own {
            self.attempt_limit()
        } else {
            OPENING
        };
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
        self.pool
            .acquire()
            .await
            .map(|lent| self.lend(lent))
            .map_err(|error| self.explain(error))
    }

    fn lend(&self, lent: PoolConnection<Postgres>) -> Connection {
        Connection(Some((lent, self.refusal.lend())))
    }

    fn explain(&self, error: sqlx::Error) -> StoreError {
        match (error, self.all_in_use()) {
            (sqlx::Error::PoolTimedOut, busy @ Some(_)) => {
                errors::no_connection(self.pool.options().get_acquire_timeout(), busy)
            }
            (error, _) => errors::of_connecting(error),
        }
    }

    /// How many there are, where all there may be are in use.
    fn all_in_use(&self) -> Option<u32> {
        let size = self.pool.size();
        (size >= self.most() && self.pool.num_idle() == 0).then_some(size)
    }

    /// Closes what we opened.
    pub(super) async fn close(&self) {
        if self.own {
            // It waits for connections that are lent; those come back or are dropped by then.
            let _ = timeout(OPENING, self.pool.close()).await;
        }
    }
}

/// A connection lent by the pool. Dropped without being given back, it is closed: someone stopped
/// waiting in the middle of an answer.
#[derive(Debug)]
pub(super) struct Connection(Option<(PoolConnection<Postgres>, Lent)>);

impl Connection {
    /// Back to the pool: every answer was read to its end.
    pub(super) fn give_back(mut self) {
        if let Some((mut connection, lent)) = self.0.take() {
            tokio::spawn(async move {
                // Dropping this future in time gives the permit back and closes the connection.
                let _ = timeout(GIVING_BACK, connection.return_to_pool()).await;
                drop(lent);
            });
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some((connection, _lent)) = self.0.take() {
            drop(connection.detach());
        }
    }
}

const LENT: &str = "a connection is lent until it is given back";

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0.as_ref().expect(LENT).0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0.as_mut().expect(LENT).0
    }
}
