//! Connections, from the store's own pool or from the application's. Every wait for one is limited,
//! and none is used again with an unread reply.

use std::future::{Future, pending};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::application_pool::{ApplicationConnection, ApplicationPool};
use super::connect_error;
use super::hosts::{Failed, Hosts};
use super::pool::{Leased, Pool};
use crate::model::error::{StoreError, StoreErrorKind};
use crate::store::PoolStatus;

/// How long the check that Postgres can be reached may take, and a migration waits for a
/// connection.
pub(super) const REACHING: Duration = Duration::from_secs(5);
/// How long closing the pool waits for connections in use.
const CLOSING: Duration = Duration::from_secs(5);
/// How long a first connection may take before the store looks for another kind of server there.
const SUSPICIOUS: Duration = Duration::from_millis(500);
/// A connection older than this may lead to a server that the address no longer names. If the
/// address still names it, each connection is replaced at most ten times a second.
const OLD: Duration = Duration::from_millis(100);

/// The source of connections.
#[derive(Debug, Clone)]
pub(super) enum Connections {
    Own(Pool),
    OfTheApplication(ApplicationPool),
}

impl Connections {
    pub(super) fn of_the_application(pool: PgPool) -> Self {
        Self::OfTheApplication(ApplicationPool::new(pool))
    }

    /// Returns whether the pool is the store's own.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Returns whether both are one pool of the store's own.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(pool), Self::Own(other)) => pool.is_same(other),
            _ => false,
        }
    }

    /// Returns the maximum of connections, which is also how many in a row may be broken.
    pub(super) fn most(&self) -> u32 {
        match self {
            Self::Own(pool) => pool.max_connections(),
            Self::OfTheApplication(pool) => pool.max_connections(),
        }
    }

    /// Returns the pool's figures under this name.
    pub(super) fn status(&self, name: &'static str) -> PoolStatus {
        match self {
            Self::Own(pool) => pool.status(name),
            Self::OfTheApplication(pool) => pool.status(name),
        }
    }

    /// Acquires a connection that has replied not long ago. Returns the reason if Postgres refuses
    /// new ones and the store's own pool has none in use. An application's pool is waited for until
    /// the deadline, because the application may release connections.
    pub(super) async fn acquire(&self) -> Result<Connection, StoreError> {
        match self {
            Self::Own(pool) => pool.acquire().await.map(Connection::Own),
            Self::OfTheApplication(pool) => pool.acquire().await.map(Connection::Borrowed),
        }
    }

    /// Acquires a connection as [`acquire`](Self::acquire) does, with a timeout at `by`, which is
    /// `waited` after the call.
    pub(super) async fn acquire_by(
        &self,
        by: Instant,
        waited: Duration,
    ) -> Result<Connection, StoreError> {
        match timeout_at(by, self.acquire()).await {
            Ok(acquired) => acquired,
            Err(_elapsed) => Err(self.why_none(waited)),
        }
    }

    /// Acquires a connection for a change, which is never sent twice. A change lost to a connection
    /// that broke while it was idle would count as perhaps committed.
    ///
    /// `patience` limits one ping of an application's connection, because another one may reply.
    /// `wait` limits all.
    pub(super) async fn acquire_for_change(
        &self,
        patience: Duration,
        wait: Duration,
    ) -> Result<Connection, StoreError> {
        let by = Instant::now() + wait;
        match self {
            Self::Own(_) => self.acquire_by(by, wait).await,
            Self::OfTheApplication(pool) => {
                let checked = timeout_at(by, pool.acquire_checked(patience)).await;
                let checked = checked.unwrap_or_else(|_elapsed| Err(self.why_none(wait)));
                checked.map(Connection::Borrowed)
            }
        }
    }

    /// Returns why no connection came within this time.
    fn why_none(&self, waited: Duration) -> StoreError {
        let (busy, failure) = match self {
            Self::Own(pool) => (pool.all_in_use(), pool.failure()),
            Self::OfTheApplication(pool) => (pool.all_in_use(), None),
        };
        match failure {
            Some(failure) if busy.is_none() => failure,
            _ => connect_error::no_connection(waited, busy),
        }
    }

    /// Closes the idle connections of the store's own pool. An application closes its own.
    pub(super) fn close_idle(&self) {
        if let Self::Own(pool) = self {
            pool.close_idle();
        }
    }

    /// Opens a connection outside of the pool.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        let hosts = self.hosts().await?;
        let connecting = async { hosts.connect(REACHING).await.map_err(Failed::reason) };
        let mut connection = or_other_server(&hosts, connecting).await?;
        // Now the first server is the one that was reached.
        let at = hosts.first();
        match timeout(REACHING, connection.ping()).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(error)) => Err(connect_error::of_connecting(&at, error)),
            Err(_elapsed) => Err(connect_error::connecting_timed_out(&at, REACHING)),
        }
    }

    /// Acquires a connection at the start, with a timeout after `wait`. The error names another
    /// kind of server at the address.
    pub(super) async fn acquire_first(&self, wait: Duration) -> Result<Connection, StoreError> {
        let hosts = self.hosts().await?;
        or_other_server(&hosts, self.acquire_by(Instant::now() + wait, wait)).await
    }

    /// Returns the servers, with the present credentials.
    async fn hosts(&self) -> Result<Hosts, StoreError> {
        match self {
            Self::Own(pool) => pool.hosts().await,
            Self::OfTheApplication(pool) => Ok(Hosts::one(pool.options().as_ref().clone())),
        }
    }

    /// Closes the pool if it is the store's own.
    pub(super) async fn close(&self) {
        if let Self::Own(pool) = self {
            pool.close(CLOSING).await;
        }
    }
}

/// Waits for a connection. If it does not come soon, or cannot come, this finds out which other
/// server replies there. It is for a start or a check, because it opens connections.
async fn or_other_server<T>(
    hosts: &Hosts,
    connecting: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let look = async {
        sleep(SUSPICIOUS).await;
        match hosts.other_server().await {
            Some(error) => error,
            None => pending().await,
        }
    };
    let failed = tokio::select! {
        connected = connecting => match connected {
            // What Postgres itself replied needs no look.
            Err(error)
                if error.kind() == StoreErrorKind::Unreachable
                    && !connect_error::is_reply(&error) =>
            {
                error
            }
            other => return other,
        },
        error = look => return Err(error),
    };
    Err(hosts.other_server().await.unwrap_or(failed))
}

/// A connection in use. It is closed if it is dropped before its release, because its caller left
/// before the end of a reply.
#[derive(Debug)]
pub(super) enum Connection {
    Own(Leased),
    Borrowed(ApplicationConnection),
}

impl Connection {
    /// Releases the connection, after every reply was read to its end.
    pub(super) fn release(self) {
        match self {
            Self::Own(leased) => leased.release(),
            Self::Borrowed(borrowed) => borrowed.release(),
        }
    }

    /// Releases the connection after a statement that failed, once it has replied to a ping.
    pub(super) fn release_after_failure(self) {
        match self {
            Self::Own(leased) => leased.release_after_failure(),
            Self::Borrowed(borrowed) => borrowed.release(),
        }
    }

    /// Returns whether the connection is known to be old. A new one may lead to another server.
    pub(super) fn is_old(&self) -> bool {
        self.age().is_some_and(|age| age > OLD)
    }

    /// Returns whether the connection is known to be new.
    pub(super) fn is_new(&self) -> bool {
        self.age().is_some_and(|age| age <= OLD)
    }

    fn age(&self) -> Option<Duration> {
        match self {
            Self::Own(leased) => Some(leased.opened().elapsed()),
            Self::Borrowed(_) => None,
        }
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(leased) => leased.connection(),
            Self::Borrowed(borrowed) => borrowed.connection(),
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(leased) => leased.connection_mut(),
            Self::Borrowed(borrowed) => borrowed.connection_mut(),
        }
    }
}
