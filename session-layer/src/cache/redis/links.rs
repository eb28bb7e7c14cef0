//! The connections to Redis. One supervisor task opens and replaces them, one task per connection
//! checks it, and all callers share them.
//!
//! A [`Link`] is one multiplexed connection. Callers use clones of it in turn, because one checkout
//! per command is several times slower. The pool is therefore not in the path of a request. It
//! creates the connections and limits their number.
//!
//! This module decides which links are usable. A link that missed a deadline is *suspect*. It is
//! not used until it responds to the supervisor within that deadline. If no usable link is left,
//! callers fail at once. The breaker (`engine/breaker.rs`) decides whether requests use Redis.
//!
//! No link reconnects silently. A lease is valid on the link that granted it, or lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use deadpool::managed::{self, Object, Pool};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect::{Connector, LONGEST_CONNECT};
use super::errors::timed_out;
use super::link::{Borrowed, Link, LinkManager};
use crate::cache::CacheId;
use crate::cache::codec::Incarnation;
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::lock::{read, write};

/// The outer timeout of opening a link. Its steps together have less time, so that an error names
/// the step.
pub(super) const OPENING_TIMEOUT: Duration = Duration::from_secs(12);
const _: () = assert!(LONGEST_CONNECT.as_millis() < OPENING_TIMEOUT.as_millis());
/// The initial number of links. One that hangs or transfers a large value does not block all.
const AT_LEAST: usize = 2;
/// The number of commands in flight on the least busy link that triggers another link.
const BUSY: usize = 64;

/// Whether there are connections. Each link tracks whether it responds.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Unknown, or just lost: callers wait.
    Connecting,
    Up,
    /// Unreachable, with the reason: callers fail at once.
    Down(CacheError),
}

/// The cache to which links lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) incarnation: Incarnation,
    pub(super) cache: CacheId,
}

/// All connections to one Redis.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) pool: Pool<LinkManager>,
    pub(super) live: RwLock<Vec<Object<LinkManager>>>,
    /// The cache to which every open link leads, if it is one. Set by [`settle`](Self::settle).
    settled: RwLock<Option<Settled>>,
    /// What identifies the cache within an incarnation: the database and the prefix of the keys.
    place: Box<[u8]>,
    pub(super) phase: watch::Sender<Phase>,
    /// The maximum number of links.
    size: usize,
    /// The desired number of links.
    pub(super) target: AtomicUsize,
    /// The number of callers that wait for a link.
    waiting: AtomicUsize,
    /// Wakes the supervisor.
    pub(super) look: Notify,
    /// The response time above which a link is suspect.
    pub(super) deadline: Duration,
    pub(super) stop: CancellationToken,
}

impl Links {
    /// Opens the links to this server and starts the supervisor. Must be called within a runtime.
    pub(super) fn open(
        connector: Connector,
        place: Box<[u8]>,
        size: usize,
        deadline: Duration,
    ) -> Result<Arc<Self>, managed::BuildError> {
        let links = Self::closed(connector, place, size, deadline)?;
        tokio::spawn(Arc::clone(&links).supervise());
        Ok(links)
    }

    /// Creates the links without opening one.
    pub(super) fn closed(
        connector: Connector,
        place: Box<[u8]>,
        size: usize,
        deadline: Duration,
    ) -> Result<Arc<Self>, managed::BuildError> {
        let pool = Pool::builder(LinkManager { connector })
            .max_size(size)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(Duration::ZERO))
            .build()?;
        Ok(Arc::new(Self {
            pool,
            live: RwLock::default(),
            settled: RwLock::default(),
            place,
            phase: watch::Sender::new(Phase::Connecting),
            size,
            target: AtomicUsize::new(AT_LEAST.min(size)),
            waiting: AtomicUsize::new(0),
            look: Notify::new(),
            deadline,
            stop: CancellationToken::new(),
        }))
    }

    /// Returns a guard that stops the supervisor, which otherwise keeps the links forever.
    pub(super) fn stop_on_drop(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Waits for the least busy usable link while one is being opened. Fails at once if all
    /// links hang or none can be opened. The caller limits the wait.
    pub(super) async fn pick(&self) -> Result<Borrowed, CacheError> {
        let _waiting = WaitingGuard::new(&self.waiting);
        let mut phase = self.phase.subscribe();
        loop {
            // The phase is read before the links, so that a change in between wakes this task.
            let seen = phase.borrow_and_update().clone();
            if let Some(link) = self.least_busy() {
                return Ok(link);
            }
            if let Phase::Down(why) = seen {
                return Err(why);
            }
            if self.count().1 > 0 {
                return Err(timed_out());
            }
            if phase.changed().await.is_err() {
                return Err(closed());
            }
        }
    }

    /// Acquires any link, even a suspect one, for a probe that measures its delay.
    pub(super) async fn any(&self) -> Result<Borrowed, CacheError> {
        let suspect = self.each().into_iter().find(|link| !link.is_closed());
        match suspect {
            Some(link) => Ok(Borrowed::new(link)),
            None => self.pick().await,
        }
    }

    /// Returns the least busy usable link, if there is one.
    pub(super) fn least_busy(&self) -> Option<Borrowed> {
        let live = read(&self.live);
        let link = live.iter().filter(|link| link.is_usable()).min_by_key(|link| link.load())?;
        if link.load() >= BUSY && live.len() < self.size() {
            self.target.fetch_max(live.len() + 1, Ordering::Relaxed);
            self.look.notify_one();
        }
        Some(Borrowed::new(Arc::clone(link)))
    }

    /// Closes a link that is lost or leads to a server that is not the master.
    pub(super) fn close_link(&self, link: &Link) {
        if link.close() {
            self.settle();
            link.report();
            self.look.notify_one();
        }
    }

    /// Marks a link that missed a deadline as suspect.
    pub(super) fn suspect(&self, link: &Link) {
        if link.set_suspect(true) {
            link.report();
            self.look.notify_one();
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns the number of usable links and of open links that do not respond.
    pub(super) fn count(&self) -> (usize, usize) {
        let links = self.each();
        let usable = links.iter().filter(|link| link.is_usable()).count();
        let open = links.iter().filter(|link| !link.is_closed()).count();
        (usable, open.saturating_sub(usable))
    }

    /// Returns why the credential of an open link could not be renewed.
    pub(super) fn credentials_problem(&self) -> Option<Arc<str>> {
        let live = read(&self.live);
        let open = live.iter().filter(|link| !link.is_closed());
        open.filter_map(|link| link.credentials_problem()).next()
    }

    /// Returns whether an acknowledgement of this link holds everywhere. All links must lead to the
    /// same process, which must report no replicas.
    pub(super) fn lead_to_one_server(&self, acknowledged: &Link) -> bool {
        let one = acknowledged.identity();
        let same = |other: &Arc<Link>| other.identity().run_id == one.run_id;
        one.is_known() && !one.replicated && self.each().iter().all(same)
    }

    /// Returns the cache to which every open link leads. Returns `None` if there is no link, or if
    /// the links lead to different incarnations.
    pub(super) fn settled(&self) -> Option<Settled> {
        *read(&self.settled)
    }

    /// Determines again to which cache the links lead. It is called after each change of the links
    /// or of an identity, because every look-up needs the result.
    pub(super) fn settle(&self) {
        self.settle_after(|| {});
    }

    /// Adds an open link. A look-up that finds it also finds the cache to which it leads.
    pub(super) fn add(&self, link: Object<LinkManager>) {
        self.settle_after(|| write(&self.live).push(link));
    }

    fn settle_after(&self, change: impl FnOnce()) {
        // The links are examined under the lock. Otherwise an older result could replace a newer.
        let mut settled = write(&self.settled);
        change();
        *settled = self.one_incarnation().map(|incarnation| match *settled {
            Some(same) if same.incarnation == incarnation => same,
            _ => Settled { incarnation, cache: CacheId::of(&[&incarnation.0, &self.place]) },
        });
    }

    fn one_incarnation(&self) -> Option<Incarnation> {
        let live = read(&self.live);
        let mut incarnations =
            live.iter().filter(|link| !link.is_closed()).map(|link| link.incarnation());
        let first = incarnations.next()?;
        incarnations.all(|other| other == first).then_some(first)
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        write(&self.live).clear();
        self.settle();
        self.pool.close();
        self.publish(Phase::Down(closed()));
    }

    pub(super) fn each(&self) -> Vec<Arc<Link>> {
        let live = read(&self.live);
        live.iter().map(|link| Arc::clone(link)).collect()
    }
}

pub(super) fn closed() -> CacheError {
    CacheError::new(CacheErrorKind::Unreachable, "the cache was closed")
}

/// A guard that counts a waiting caller until it is dropped.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl<'a> WaitingGuard<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
