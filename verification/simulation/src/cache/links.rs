//! The links to the simulated Redis, and the keeper that checks and replaces them. A link that
//! exceeded a deadline is suspect, and is not used until it replies again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::cache::CacheId;
use session_layer::error::{CacheError, CacheErrorKind};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{DEADLINE, SimulatedCache};
use crate::redis::{Broken, Connection, Identity};
use crate::world::{Call, State, Step};

pub(super) const LINKS: usize = 2;
const RECHECK_EVERY: Duration = Duration::from_secs(1);
const RETRY_LINKS_EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Link {
    pub(super) connection: Connection,
    /// With its name for the engine, which is a hash.
    identity: Mutex<(Identity, CacheId)>,
    pub(super) dead: AtomicBool,
    suspect: AtomicBool,
    in_flight: AtomicUsize,
}

impl Link {
    pub(super) fn identity(&self) -> Identity {
        self.lock_identity().0
    }

    pub(super) fn cache_id(&self) -> CacheId {
        self.lock_identity().1
    }

    fn lock_identity(&self) -> MutexGuard<'_, (Identity, CacheId)> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self) -> bool {
        !self.dead.load(Ordering::Relaxed) && !self.suspect.load(Ordering::Relaxed)
    }
}

pub(super) enum Failure {
    Lost,
    Refused,
    TimedOut,
}

impl From<Failure> for CacheError {
    fn from(failure: Failure) -> Self {
        let (kind, message) = match failure {
            Failure::Lost => (CacheErrorKind::Unreachable, "no connection to Redis"),
            Failure::Refused => (CacheErrorKind::NotMaster, "READONLY"),
            Failure::TimedOut => (CacheErrorKind::TimedOut, "Redis did not respond in time"),
        };
        Self::new(kind, message)
    }
}

fn cache_id(identity: Identity) -> CacheId {
    let (server, life) = identity.incarnation;
    CacheId::of(&[&server.to_be_bytes(), &life.to_be_bytes()])
}

impl SimulatedCache {
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn least_busy(&self) -> Option<Arc<Link>> {
        let links = self.links().into_iter().filter(|link| link.is_usable());
        links.min_by_key(|link| link.in_flight.load(Ordering::Relaxed))
    }

    async fn pick(&self) -> Result<Arc<Link>, Failure> {
        loop {
            let opened = self.0.opened.notified();
            if let Some(link) = self.least_busy() {
                return Ok(link);
            }
            if !self.0.reachable.load(Ordering::Relaxed) {
                return Err(Failure::Lost);
            }
            opened.await;
        }
    }

    fn call(&self, what: &'static str, about: u64, lane: Option<u64>) -> Call {
        Call { node: self.0.node, life: self.0.life, what, about, lane }
    }

    /// Executes a command on this link.
    pub(super) async fn run_on<T: Send + 'static>(
        &self,
        link: &Arc<Link>,
        deadline: Instant,
        (what, about): (&'static str, u64),
        command: impl Fn(&mut State, Connection) -> Result<T, Broken> + Send + 'static,
    ) -> Result<T, Failure> {
        let connection = link.connection;
        let call = self.call(what, about, Some(connection.number));
        let reply = self.0.world.ask(call, move |state| Step::Done(command(state, connection)));
        link.in_flight.fetch_add(1, Ordering::Relaxed);
        let reply = timeout_at(deadline, reply).await;
        link.in_flight.fetch_sub(1, Ordering::Relaxed);
        match reply {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(broken)) => {
                self.drop_link(link);
                Err(match broken {
                    Broken::Lost => Failure::Lost,
                    Broken::Demoted => Failure::Refused,
                })
            }
            Err(_elapsed) => {
                link.suspect.store(true, Ordering::Relaxed);
                self.0.check.notify_one();
                Err(Failure::TimedOut)
            }
        }
    }

    /// Executes a command on any link, and retries on another if a link is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        name: (&'static str, u64),
        command: impl Fn(&mut State, Connection) -> Result<T, Broken> + Clone + Send + 'static,
    ) -> Result<(T, Arc<Link>), Failure> {
        let mut lost = 0;
        loop {
            let link = timeout_at(deadline, self.pick()).await.map_err(|_| Failure::TimedOut)??;
            match self.run_on(&link, deadline, name, command.clone()).await {
                Ok(result) => return Ok((result, link)),
                Err(Failure::Lost) if lost < LINKS => lost += 1,
                Err(failure) => return Err(failure),
            }
        }
    }

    fn drop_link(&self, link: &Link) {
        link.dead.store(true, Ordering::Relaxed);
        self.0.check.notify_one();
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.0.deadline
    }

    /// Runs the keeper, which opens, checks and replaces links.
    pub(super) async fn keep(self) {
        let mut recheck = Instant::now() + RECHECK_EVERY;
        loop {
            let failed = self.replace_missing().await.is_err();
            let due = Instant::now() >= recheck;
            if due {
                recheck = Instant::now() + RECHECK_EVERY;
            }
            for link in self.links() {
                if due || !link.is_usable() {
                    self.check(&link).await;
                }
            }
            let usable = self.links().iter().filter(|link| link.is_usable()).count();
            self.0.reachable.store(usable > 0 || !failed, Ordering::Relaxed);
            self.0.opened.notify_waiters();
            let until = recheck.saturating_duration_since(Instant::now());
            let wait = if usable == LINKS { until } else { until.min(RETRY_LINKS_EVERY) };
            let _ = timeout(wait, self.0.check.notified()).await;
            // Reports of callers must not cause a storm of connection attempts.
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn replace_missing(&self) -> Result<(), Failure> {
        self.lock_links().retain(|link| !link.dead.load(Ordering::Relaxed));
        while self.links().len() < LINKS {
            let call = self.call("connect", 0, None);
            let opening = self.0.world.ask(call, |state| Step::Done(state.connect()));
            let (connection, identity) = match timeout(PATIENCE, opening).await {
                Ok(Ok(opened)) if opened.1.is_master => opened,
                Ok(Ok(_)) => return Err(Failure::Refused),
                Ok(Err(_)) => return Err(Failure::Lost),
                Err(_) => return Err(Failure::TimedOut),
            };
            self.lock_links().push(Arc::new(Link {
                connection,
                identity: Mutex::new((identity, cache_id(identity))),
                dead: AtomicBool::new(false),
                suspect: AtomicBool::new(false),
                in_flight: AtomicUsize::new(0),
            }));
            self.0.reachable.store(true, Ordering::Relaxed);
            self.0.opened.notify_waiters();
        }
        Ok(())
    }

    fn lock_links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a link. It is suspect if the reply is late, and dead if there is none or no master.
    async fn check(&self, link: &Arc<Link>) {
        let connection = link.connection;
        let call = self.call("INFO", connection.number, Some(connection.number));
        let sent = Instant::now();
        let reply = self.0.world.ask(call, move |state| Step::Done(state.info(connection)));
        let mut reply = std::pin::pin!(reply);
        let in_time = timeout_at(sent + DEADLINE, &mut reply).await.ok();
        link.suspect.store(in_time.is_none(), Ordering::Relaxed);
        let info = match in_time {
            None => timeout_at(sent + PATIENCE, reply).await.ok(),
            info => info,
        };
        match info {
            Some(Ok(identity)) if identity == link.identity() => {}
            Some(Ok(identity)) if identity.is_master => {
                *link.lock_identity() = (identity, cache_id(identity));
            }
            _ => self.drop_link(link),
        }
    }
}
