//! The application's pool, which is sqlx's. It may have hooks that prepare a connection, and other
//! users that release one.
//!
//! This module adds two things. Without them, a network that drops packets would empty the pool for
//! good:
//!
//! - A future dropped between query and reply returns its connection to the pool. Its cleanup there
//!   waits for a reply that never comes, and keeps the permit. A connection that was not
//!   [released](ApplicationConnection::release) leaves the pool instead.
//! - sqlx pings a connection when it is released, without a timeout. Here the ping has one.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::connect_error::{self, At};
use crate::model::error::StoreError;
use crate::store::PoolStatus;

/// The maximum of callers that wait in the pool's queue. A pool opens connections in the futures of
/// its callers, and here an attempt continues if its caller leaves.
const ACQUIRING_AT_ONCE: usize = 3;
/// How long an attempt may take.
const OPENING: Duration = Duration::from_secs(5);
/// How long the ping may take when a connection is released.
const RELEASING: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct ApplicationPool {
    pool: PgPool,
    opening: Arc<Semaphore>,
}

impl ApplicationPool {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, opening: Arc::new(Semaphore::new(ACQUIRING_AT_ONCE)) }
    }

    pub(super) fn max_connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    pub(super) fn options(&self) -> Arc<PgConnectOptions> {
        self.pool.connect_options()
    }

    /// Returns the number of connections, if all that the pool may have are in use.
    pub(super) fn all_in_use(&self) -> Option<u32> {
        let size = self.pool.size();
        (size >= self.max_connections() && self.pool.num_idle() == 0).then_some(size)
    }

    /// Returns the pool's figures under this name. The pool does not tell how many callers wait.
    pub(super) fn status(&self, name: &'static str) -> PoolStatus {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let used = self.pool.size().saturating_sub(idle);
        PoolStatus { used, idle, ..PoolStatus::new(name, self.max_connections()) }
    }

    /// Acquires a connection. The attempt continues if the caller leaves. Otherwise each caller who
    /// left would leave a connection behind, and a hanging Postgres must process and drop all of
    /// them when it recovers.
    pub(super) async fn acquire(&self) -> Result<ApplicationConnection, StoreError> {
        let permit = Arc::clone(&self.opening).acquire_owned().await;
        let permit = permit.map_err(|_closed| self.explain(sqlx::Error::PoolClosed))?;
        let (give, get) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move {
            let acquired = loop {
                match timeout(OPENING, this.pool.acquire()).await {
                    Ok(acquired) => break acquired,
                    Err(_elapsed) if give.is_closed() => break Err(sqlx::Error::PoolTimedOut),
                    Err(_elapsed) => {}
                }
            };
            drop(permit);
            let acquired = acquired.map(|connection| ApplicationConnection(Some(connection)));
            if let Err(Ok(unwanted)) = give.send(acquired) {
                unwanted.release();
            }
        });
        let acquired = get.await.unwrap_or(Err(sqlx::Error::WorkerCrashed));
        acquired.map_err(|error| self.explain(error))
    }

    /// Acquires a connection that has just replied to a ping, which `patience` limits.
    pub(super) async fn acquire_checked(
        &self,
        patience: Duration,
    ) -> Result<ApplicationConnection, StoreError> {
        let mut broken = 0;
        loop {
            let mut connection = self.acquire().await?;
            match timeout(patience, connection.connection_mut().ping()).await {
                Ok(Ok(())) => return Ok(connection),
                Ok(Err(error)) if broken >= self.max_connections() => {
                    return Err(self.explain(error));
                }
                Ok(Err(_)) | Err(_) => broken += 1,
            }
        }
    }

    fn explain(&self, error: sqlx::Error) -> StoreError {
        match (error, self.all_in_use()) {
            (sqlx::Error::PoolTimedOut, busy @ Some(_)) => {
                connect_error::no_connection(self.pool.options().get_acquire_timeout(), busy)
            }
            (error, _) => connect_error::of_connecting(&At(&self.options()), error),
        }
    }
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct ApplicationConnection(Option<PoolConnection<Postgres>>);

const HELD: &str = "a connection is held until it is released";

impl ApplicationConnection {
    pub(super) fn connection(&self) -> &PgConnection {
        self.0.as_ref().expect(HELD)
    }

    pub(super) fn connection_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect(HELD)
    }

    /// Returns the connection to the pool, once it has replied to a ping.
    pub(super) fn release(mut self) {
        if let Some(mut connection) = self.0.take() {
            // The timeout drops the future, which closes the connection.
            tokio::spawn(async move { timeout(RELEASING, connection.return_to_pool()).await });
        }
    }
}

impl Drop for ApplicationConnection {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
