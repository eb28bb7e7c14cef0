//! The connections to Redis: opened, checked and replaced by one keeper task, shared by all callers.
//!
//! A [`Link`] is one multiplexed connection. Callers take turns on clones of it (holding one for each
//! command is several times slower), so the pool is not on the way of a request: it creates the
//! connections, counts them, and holds them to their number.
//!
//! What is decided here is which connection is good. A link that let a deadline pass is *suspect*:
//! nobody uses it until it answers the keeper within that deadline. Where none is left that is good, callers
//! are told so at once. Whether requests should ask Redis at all is decided above, by the breaker
//! (`breaker.rs`). No link is ever reconnected behind a caller's back: a lease is good on the link that
//! granted it, or lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deadpool::managed::{self, Object, Pool};
use deadpool_redis::Manager as Connector;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::errors::timed_out;
use super::link::{Borrowed, Link, LinkManager};
use crate::error::{CacheError, CacheErrorKind};

/// How long connecting, or an answer to the keeper, may take. It is not on the way of a request.
pub(super) const KEEPER_PATIENCE: Duration = Duration::from_secs(1);
/// Two from the start: one that hangs, or that a large value holds up, is not all there is.
const AT_LEAST: usize = 2;
/// Commands under way on the least busy link at which another one is opened.
const BUSY: usize = 64;

/// Are there connections? (Whether they answer, each of them says.)
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Not known yet, or just lost: worth waiting for.
    Connecting,
    Up,
    /// No, and why: not worth waiting for.
    Down(CacheErrorKind, Arc<str>),
}

/// All connections to one Redis.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) pool: Pool<LinkManager>,
    pub(super) live: RwLock<Vec<Object<LinkManager>>>,
    pub(super) phase: watch::Sender<Phase>,
    /// How many links there may be.
    size: usize,
    /// How many links there should be.
    pub(super) target: AtomicUsize,
    /// Callers waiting for a link.
    waiting: AtomicUsize,
    /// Something for the keeper to look at.
    pub(super) look: Notify,
    /// Within what time a link has to answer to be used.
    pub(super) deadline: Duration,
    pub(super) stop: CancellationToken,
}

impl Links {
    /// The links to this server, and the task that keeps them. Must be called within a runtime.
    pub(super) fn open(
        connector: Connector,
        size: usize,
        deadline: Duration,
    ) -> Result<Arc<Self>, managed::BuildError> {
        let pool = Pool::builder(LinkManager { connector })
            .max_size(size)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(Duration::ZERO))
            .create_timeout(Some(KEEPER_PATIENCE))
            .build()?;
        let links = Arc::new(Self {
            pool,
            live: RwLock::default(),
            phase: watch::Sender::new(Phase::Connecting),
            size,
            target: AtomicUsize::new(AT_LEAST.min(size)),
            waiting: AtomicUsize::new(0),
            look: Notify::new(),
            deadline,
            stop: CancellationToken::new(),
        });
        tokio::spawn(Arc::clone(&links).keep());
        Ok(links)
    }

    /// Ends the keeper, which otherwise keeps the links for ever.
    pub(super) fn stop_on_drop(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// The least busy link that answers; waits while one is being opened, but not for one that hangs, nor
    /// where none can be opened. The caller bounds the wait.
    pub(super) async fn pick(&self) -> Result<Borrowed, CacheError> {
        if let Some(link) = self.least_busy() {
            return Ok(link);
        }
        let _waiting = Waiting::new(&self.waiting);
        let mut phase = self.phase.subscribe();
        loop {
            // Looked at before the links: a change in between wakes us.
            let seen = phase.borrow_and_update().clone();
            if let Some(link) = self.least_busy() {
                return Ok(link);
            }
            if let Phase::Down(kind, why) = seen {
                return Err(CacheError::new(kind, &*why));
            }
            if self.count().1 > 0 {
                return Err(timed_out());
            }
            if phase.changed().await.is_err() {
                return Err(closed());
            }
        }
    }

    /// Any link at all, suspect or not: for a probe, which measures how slow it is.
    pub(super) async fn any(&self) -> Result<Borrowed, CacheError> {
        let suspect = self.each().into_iter().find(|link| !link.is_dead());
        match suspect {
            Some(link) => Ok(Borrowed::new(link)),
            None => self.pick().await,
        }
    }

    fn least_busy(&self) -> Option<Borrowed> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let link = live
            .iter()
            .filter(|link| link.is_usable())
            .min_by_key(|link| link.load())?;
        if link.load() >= BUSY && live.len() < self.size() {
            self.target.fetch_max(live.len() + 1, Ordering::Relaxed);
            self.look.notify_one();
        }
        Some(Borrowed::new(Arc::clone(link)))
    }

    /// The connection is lost, or leads to a server that is no master.
    pub(super) fn give_up(&self, link: &Link) {
        if link.kill() {
            self.look.notify_one();
        }
    }

    /// It let a deadline pass.
    pub(super) fn suspect(&self, link: &Link) {
        if link.set_suspect(true) {
            self.look.notify_one();
        }
    }

    /// Connections at most.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Links that answer, and those that are open and don't.
    pub(super) fn count(&self) -> (usize, usize) {
        let links = self.each();
        let usable = links.iter().filter(|link| link.is_usable()).count();
        let open = links.iter().filter(|link| !link.is_dead()).count();
        (usable, open.saturating_sub(usable))
    }

    /// Does what this link acknowledged hold everywhere: do all links lead to the one process that it
    /// leads to, and has that no replicas, as far as it tells?
    pub(super) fn lead_to_one_server(&self, acknowledged: &Link) -> bool {
        let one = acknowledged.identity();
        let same = |other: &Arc<Link>| other.identity().run_id == one.run_id;
        one.is_known() && !one.replicated && self.each().iter().all(same)
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.pool.close();
        self.publish(Phase::Down(
            CacheErrorKind::Unreachable,
            "the cache was closed".into(),
        ));
    }

    pub(super) fn each(&self) -> Vec<Arc<Link>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.iter().map(|link| Arc::clone(link)).collect()
    }
}

pub(super) fn closed() -> CacheError {
    CacheError::new(CacheErrorKind::Unreachable, "the cache was closed")
}

/// Counts a waiting caller for as long as it waits, also when it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
