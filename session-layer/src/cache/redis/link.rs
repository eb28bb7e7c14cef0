//! One connection to Redis, and its creation.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;

use super::connect::{self, Connected, Connector, OpenConnection, SUPERVISOR_TIMEOUT, Used};
use super::identity::Identity;
use crate::cache::codec::Incarnation;
use crate::model::error::CacheError;
use crate::model::lock::{lock, read, write};

#[derive(Debug)]
pub(super) struct Link {
    connection: OpenConnection,
    identity: RwLock<Identity>,
    /// The first credential, if it may change.
    used: Option<Used>,
    /// Why its credential could not be renewed, until it is.
    credentials_problem: Mutex<Option<Arc<str>>>,
    /// Whether the link was closed. The leases that it granted are lost.
    closed: AtomicBool,
    /// Whether the link missed a deadline and has not responded in time since.
    suspect: AtomicBool,
    in_flight: AtomicUsize,
    /// Notified when a caller reports a problem with the link.
    reports: Notify,
}

impl Link {
    pub(super) fn new(Connected { connection, identity, used }: Connected) -> Self {
        Self {
            connection,
            identity: RwLock::new(identity),
            used,
            credentials_problem: Mutex::default(),
            closed: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            reports: Notify::new(),
        }
    }

    /// Returns the credential with which the link was opened, if it may change.
    pub(super) fn used(&self) -> Option<Used> {
        self.used.clone()
    }

    pub(super) fn set_credentials_problem(&self, problem: Option<Arc<str>>) {
        *lock(&self.credentials_problem) = problem;
    }

    pub(super) fn credentials_problem(&self) -> Option<Arc<str>> {
        lock(&self.credentials_problem).clone()
    }

    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.commands.clone()
    }

    /// Runs commands of [`connection`](Self::connection) until they have a reply, or it is lost.
    pub(super) fn run<T>(
        &self,
        commands: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = RedisResult<T>> {
        self.connection.run(commands)
    }

    /// Returns the incarnation of the last check, to which an entry of this link is bound.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.read_identity().incarnation()
    }

    pub(super) fn identity(&self) -> Identity {
        self.read_identity().clone()
    }

    pub(super) fn set_identity(&self, identity: Identity) {
        *write(&self.identity) = identity;
    }

    fn read_identity(&self) -> RwLockReadGuard<'_, Identity> {
        read(&self.identity)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Marks the link as closed. Returns whether it was open.
    pub(super) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::SeqCst)
    }

    /// Sets whether the link is suspect. Returns whether that changed.
    pub(super) fn set_suspect(&self, suspect: bool) -> bool {
        self.suspect.swap(suspect, Ordering::SeqCst) != suspect
    }

    /// Wakes the task that checks the link.
    pub(super) fn report(&self) {
        self.reports.notify_one();
    }

    pub(super) async fn reported(&self) {
        self.reports.notified().await;
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.is_closed() && !self.suspect.load(Ordering::SeqCst)
    }

    /// Returns the number of operations in flight.
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

/// The factory of links for the pool.
#[derive(Debug)]
pub(super) struct LinkManager {
    pub(super) connector: Connector,
}

impl managed::Manager for LinkManager {
    type Type = Arc<Link>;
    type Error = CacheError;

    /// Connects to a master.
    async fn create(&self) -> Result<Arc<Link>, CacheError> {
        let connected = self.connector.connect(SUPERVISOR_TIMEOUT).await?;
        if !connected.identity.is_master {
            return Err(connect::not_master(&self.connector).into());
        }
        Ok(Arc::new(Link::new(connected)))
    }

    /// Rejects every returned link. Links stay checked out while they are in use.
    async fn recycle(&self, _: &mut Arc<Link>, _: &Metrics) -> RecycleResult<CacheError> {
        Err(RecycleError::message("links are not used twice"))
    }
}
