//! The connections to Redis: opened, checked and replaced by one keeper task, shared by all callers.
//!
//! A [`Link`] is one multiplexed connection. Callers take turns on clones of it (holding one for each
//! command is several times slower), so the pool is not on the way of a request: it creates the
//! connections, counts them, and holds them to their number.
//!
//! A link that let a deadline pass is *suspect*: nobody uses it until it answers the keeper within
//! that deadline. So while Redis hangs or is slow a request does not wait for it; and while there is
//! no connection at all, requests are told so at once. No link is ever reconnected behind a caller's
//! back: a lease is good on the link that granted it, or lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, Pool, RecycleError, RecycleResult};
use deadpool_redis::Manager as Connector;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::errors::{classify, timed_out};
use super::identity::{self, Identity};
use crate::codec::Incarnation;
use crate::error::{CacheError, CacheErrorKind};

/// Role and incarnation are asked again this often.
const RECHECK_EVERY: Duration = Duration::from_secs(1);
/// What is down or suspect is tried again this often: well within "hits again 2 s after PING answers".
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How long connecting, or an answer to the keeper, may take. It is not on the way of a request.
const KEEPER_PATIENCE: Duration = Duration::from_secs(1);
/// Two from the start: one that hangs, or that a large value holds up, is not all there is.
const AT_LEAST: usize = 2;
/// Commands under way on the least busy link at which another one is opened.
const BUSY: usize = 64;

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    identity: RwLock<Identity>,
    dead: AtomicBool,
    suspect: AtomicBool,
    in_flight: AtomicUsize,
}

impl Link {
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// As of the last check: what an entry granted on this link is bound to.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.identity().incarnation()
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Given up: what it granted is lost.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn is_usable(&self) -> bool {
        !self.is_dead() && !self.suspect.load(Ordering::SeqCst)
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

/// Can Redis be used?
#[derive(Debug, Clone)]
enum Phase {
    /// Not known yet, or just lost: worth waiting for.
    Connecting,
    Up,
    /// No, and why: not worth waiting for.
    Down(CacheErrorKind, Arc<str>),
}

/// All connections to one Redis.
#[derive(Debug)]
pub(super) struct Links {
    pool: Pool<LinkManager>,
    live: RwLock<Vec<Object<LinkManager>>>,
    phase: watch::Sender<Phase>,
    /// How many links there may be.
    size: usize,
    /// How many links there should be.
    target: AtomicUsize,
    /// Callers waiting for a link.
    waiting: AtomicUsize,
    /// Something for the keeper to look at.
    look: Notify,
    /// Within what time a link has to answer to be used.
    deadline: Duration,
    stop: CancellationToken,
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

    /// The least busy link that answers; waits while one is being opened, never while Redis is known
    /// to be down. The caller bounds the wait.
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
        let load = |link: &Link| link.in_flight.load(Ordering::Relaxed);
        let link = live
            .iter()
            .filter(|link| link.is_usable())
            .min_by_key(|link| load(link))?;
        if load(link) >= BUSY && live.len() < self.size() {
            self.target.fetch_max(live.len() + 1, Ordering::Relaxed);
            self.look.notify_one();
        }
        Some(Borrowed::new(Arc::clone(link)))
    }

    /// The connection is lost, or leads to a server that is no master.
    pub(super) fn give_up(&self, link: &Link) {
        if !link.dead.swap(true, Ordering::SeqCst) {
            self.look.notify_one();
        }
    }

    /// It let a deadline pass.
    pub(super) fn suspect(&self, link: &Link) {
        if !link.suspect.swap(true, Ordering::SeqCst) {
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

    /// Do all links lead to one process that has no replicas, as far as it tells?
    pub(super) fn lead_to_one_server(&self) -> bool {
        let identities: Vec<_> = self.each().iter().map(|link| link.identity()).collect();
        identities
            .windows(2)
            .all(|pair| pair[0].run_id == pair[1].run_id)
            && identities
                .iter()
                .all(|identity| identity.is_known() && identity.replicas == 0)
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

    fn each(&self) -> Vec<Arc<Link>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.iter().map(|link| Arc::clone(link)).collect()
    }

    /// The keeper.
    async fn keep(self: Arc<Self>) {
        let mut recheck = Instant::now() + RECHECK_EVERY;
        while !self.stop.is_cancelled() {
            let mut failure = self.replace_missing().await;
            let now = Instant::now();
            let due = now >= recheck;
            if due {
                recheck = now + RECHECK_EVERY;
            }
            let links = self.each();
            let to_check = links.iter().filter(|link| due || !link.is_usable());
            join_all(to_check.map(|link| self.check(link))).await;
            if self.drop_dead() {
                failure = self.replace_missing().await;
            }
            let (usable, hanging) = self.count();
            self.publish(match failure {
                _ if usable > 0 => Phase::Up,
                Some(error) => Phase::Down(error.kind(), error.to_string().into()),
                None if hanging > 0 => {
                    Phase::Down(CacheErrorKind::TimedOut, timed_out().to_string().into())
                }
                // All were closed again since they were opened: that says nothing about the next.
                None => continue,
            });
            let all_well = self.count().0 >= self.target.load(Ordering::Relaxed);
            let next = if all_well {
                recheck
            } else {
                recheck.min(Instant::now() + RETRY_EVERY)
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.look.notified() => {
                    // While Redis is down, what callers report must not turn into a storm of
                    // connection attempts.
                    if matches!(*self.phase.borrow(), Phase::Down(..)) {
                        sleep_until(next).await;
                    }
                }
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Opens links until there are as many as there should be, or until one can't be.
    async fn replace_missing(&self) -> Option<CacheError> {
        self.drop_dead();
        let mut tried_again = false;
        loop {
            let missing = {
                let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
                live.len() < self.target.load(Ordering::Relaxed).min(self.size())
            };
            if !missing || self.stop.is_cancelled() {
                return None;
            }
            match timeout(KEEPER_PATIENCE * 2, self.pool.get()).await {
                Ok(Ok(link)) => {
                    self.live
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(link);
                    self.publish(Phase::Up);
                }
                // Cut off in the middle of connecting, or refused: once more at once, before requests
                // are told that Redis is down.
                Ok(Err(managed::PoolError::Backend(error)))
                    if !tried_again && error.kind() == CacheErrorKind::Unreachable =>
                {
                    tried_again = true;
                }
                Ok(Err(managed::PoolError::Backend(error))) => return Some(error),
                Ok(Err(managed::PoolError::Timeout(_))) | Err(_) => return Some(timed_out()),
                Ok(Err(_)) => return Some(closed()),
            }
        }
    }

    /// Takes dead links out. True if there were any.
    fn drop_dead(&self) -> bool {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = live.len();
        for at in (0..before).rev() {
            if live[at].is_dead() {
                drop(Object::take(live.swap_remove(at)));
            }
        }
        let any = live.len() < before;
        if any && !live.iter().any(|link| link.is_usable()) {
            drop(live);
            self.publish(Phase::Connecting);
        }
        any
    }

    /// Asks who is there. In time: usable. Late: suspect. Not at all, or no master: dead.
    async fn check(&self, link: &Arc<Link>) {
        let mut connection = link.connection();
        let mut answer = std::pin::pin!(identity::ask(&mut connection));
        let asked = Instant::now();
        let answered = match timeout_at(asked + self.deadline, &mut answer).await {
            Ok(answered) => {
                link.suspect.store(answered.is_err(), Ordering::SeqCst);
                answered
            }
            Err(_) => {
                link.suspect.store(true, Ordering::SeqCst);
                if self.count().0 == 0 {
                    let why = timed_out().to_string().into();
                    self.publish(Phase::Down(CacheErrorKind::TimedOut, why));
                }
                match timeout_at(asked + KEEPER_PATIENCE, answer).await {
                    Ok(answered) => answered,
                    Err(_) => return self.give_up(link),
                }
            }
        };
        match answered {
            Ok(identity) if identity.is_master => {
                *link
                    .identity
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = identity;
            }
            Ok(_) | Err(_) => self.give_up(link),
        }
    }

    /// Tells waiting callers; logs a change, once.
    fn publish(&self, new: Phase) {
        let old = self.phase.send_replace(new.clone());
        match (old, new) {
            (Phase::Down(..), Phase::Up) => tracing::info!("Redis can be used again"),
            (Phase::Connecting | Phase::Up, Phase::Down(_, why)) if !self.stop.is_cancelled() => {
                tracing::warn!(%why, "Redis cannot be used; sessions are read from the store");
            }
            _ => {}
        }
    }
}

fn closed() -> CacheError {
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

/// Creates links for the pool.
#[derive(Debug)]
pub(super) struct LinkManager {
    connector: Connector,
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
