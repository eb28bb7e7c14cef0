//! One connection to Redis, and how it comes about.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_redis::Manager as Connector;
use redis::aio::MultiplexedConnection;

use super::errors::classify;
use super::identity::{self, Identity};
use crate::codec::Incarnation;
use crate::error::{CacheError, CacheErrorKind};

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    identity: RwLock<Identity>,
    /// Given up: what it granted is lost.
    dead: AtomicBool,
    /// It let a deadline pass and has not answered in time since.
    suspect: AtomicBool,
    in_flight: AtomicUsize,
}

impl Link {
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// As of the last check: what an entry granted on this link is bound to.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.read_identity().incarnation()
    }

    pub(super) fn identity(&self) -> Identity {
        self.read_identity().clone()
    }

    pub(super) fn set_identity(&self, identity: Identity) {
        *self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity;
    }

    fn read_identity(&self) -> RwLockReadGuard<'_, Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// True if it was not dead before.
    pub(super) fn kill(&self) -> bool {
        !self.dead.swap(true, Ordering::SeqCst)
    }

    /// True if that is news.
    pub(super) fn set_suspect(&self, suspect: bool) -> bool {
        self.suspect.swap(suspect, Ordering::SeqCst) != suspect
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.is_dead() && !self.suspect.load(Ordering::SeqCst)
    }

    /// Operations under way.
    pub(super) fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// A link in use by one operation.
#[derive(Debug)]
pub(super) struct Borrowed(pub(super) Arc<Link>);

impl Borrowed {
    pub(super) fn new(link: Arc<Link>) -> Self {
        link.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(link)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Creates links for the pool.
#[derive(Debug)]
pub(super) struct LinkManager {
    pub(super) connector: Connector,
}

impl managed::Manager for LinkManager {
    type Type = Arc<Link>;
    type Error = CacheError;

    /// Connects and asks who is there, both within the pool's timeout.
    async fn create(&self) -> Result<Arc<Link>, CacheError> {
        let mut connection = managed::Manager::create(&self.connector)
            .await
            .map_err(classify)?;
        let identity = identity::ask(&mut connection).await.map_err(classify)?;
        if !identity.is_master {
            return Err(CacheError::new(
                CacheErrorKind::NotMaster,
                "the Redis server is a replica: REDIS_URL must lead to the master",
            ));
        }
        Ok(Arc::new(Link {
            connection,
            identity: RwLock::new(identity),
            dead: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
        }))
    }

    /// Links stay checked out while they live; one that comes back is done with.
    async fn recycle(&self, _: &mut Arc<Link>, _: &Metrics) -> RecycleResult<CacheError> {
        Err(RecycleError::message("links are not used twice"))
    }
}
