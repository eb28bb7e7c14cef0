//! The port to the simulated Redis: what `RedisCache` does over a real one.
//!
//! Two links for each node, each with the incarnation that was read at its connect; a keeper that asks
//! again each second and replaces what is lost; a link that let a deadline pass is suspect until it
//! answers; leases by SET NX or compare-and-set, fills by compare-and-set on the link that granted the
//! lease. The mutants of the adapter are switched on here and nowhere else ([`Mistake`]).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, FENCE, Filled, Invalidated, LEASE, Lookup, SessionCache,
};
use session_layer::{CacheError, CacheErrorKind, TokenDigest};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::coverage::Event;
use crate::mutants::Mistake;
use crate::redis::{Broken, Command, Connection, Identity, Incarnation, Value};
use crate::world::{Call, Millis, State, Step, World, number};

/// As that of `RedisCache`.
const DEADLINE: Duration = Duration::from_millis(50);
const LINKS: usize = 2;
const RECHECK_EVERY: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(1);

/// One node's.
#[derive(Clone)]
pub(crate) struct SimulatedCache(Arc<Shared>);

struct Shared {
    world: Arc<World>,
    node: u32,
    life: u32,
    deadline: Duration,
    links: Mutex<Vec<Arc<Link>>>,
    /// Nobody has found Redis down.
    hopeful: AtomicBool,
    /// A link was opened, or Redis was found down.
    opened: Notify,
    /// Something for the keeper to look at.
    look: Notify,
    mistake: Option<Mistake>,
    nonces: AtomicU64,
}

struct Link {
    connection: Connection,
    identity: Mutex<Identity>,
    dead: AtomicBool,
    suspect: AtomicBool,
    in_flight: AtomicUsize,
}

impl Link {
    fn identity(&self) -> Identity {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self) -> bool {
        !self.dead.load(Ordering::Relaxed) && !self.suspect.load(Ordering::Relaxed)
    }
}

/// The right to fill one key.
pub(crate) struct SimulatedLease {
    digest: TokenDigest,
    nonce: u64,
    link: Arc<Link>,
    incarnation: Incarnation,
}

enum Failure {
    Lost,
    Refused,
    TimedOut,
}

impl From<Failure> for CacheError {
    fn from(failure: Failure) -> Self {
        let (kind, message) = match failure {
            Failure::Lost => (CacheErrorKind::Unreachable, "no connection to Redis"),
            Failure::Refused => (CacheErrorKind::NotMaster, "READONLY"),
            Failure::TimedOut => (CacheErrorKind::TimedOut, "Redis did not answer in time"),
        };
        Self::new(kind, message)
    }
}

impl SimulatedCache {
    pub(crate) fn open(world: &Arc<World>, node: u32, life: u32, mistake: Option<Mistake>) -> Self {
        let deadline = match mistake {
            Some(Mistake::NoDeadline) => Duration::from_secs(3600),
            _ => DEADLINE,
        };
        let cache = Self(Arc::new(Shared {
            world: Arc::clone(world),
            node,
            life,
            deadline,
            links: Mutex::default(),
            hopeful: AtomicBool::new(true),
            opened: Notify::new(),
            look: Notify::new(),
            mistake,
            nonces: AtomicU64::new(0),
        }));
        tokio::spawn(cache.clone().keep());
        cache
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.0
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn least_busy(&self) -> Option<Arc<Link>> {
        let links = self.links().into_iter().filter(|link| link.is_usable());
        links.min_by_key(|link| link.in_flight.load(Ordering::Relaxed))
    }

    async fn pick(&self) -> Result<Arc<Link>, Failure> {
        loop {
            let opened = self.0.opened.notified();
            if let Some(link) = self.least_busy() {
                return Ok(link);
            }
            if !self.0.hopeful.load(Ordering::Relaxed) {
                return Err(Failure::Lost);
            }
            opened.await;
        }
    }

    fn call(&self, what: &'static str, about: u64, lane: Option<u64>) -> Call {
        Call {
            node: self.0.node,
            life: self.0.life,
            what,
            about,
            lane,
        }
    }

    /// A command on this link and no other, and what it says about the link.
    async fn run_on<T: Send + 'static>(
        &self,
        link: &Arc<Link>,
        deadline: Instant,
        (what, about): (&'static str, u64),
        command: impl Fn(&mut State, Connection) -> Result<T, Broken> + Send + 'static,
    ) -> Result<T, Failure> {
        let connection = link.connection;
        let call = self.call(what, about, Some(connection.number));
        let answer = self
            .0
            .world
            .ask(call, move |state| Step::Done(command(state, connection)));
        link.in_flight.fetch_add(1, Ordering::Relaxed);
        let answer = timeout_at(deadline, answer).await;
        link.in_flight.fetch_sub(1, Ordering::Relaxed);
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(broken)) => {
                self.give_up(link);
                Err(match broken {
                    Broken::Lost => Failure::Lost,
                    Broken::Demoted => Failure::Refused,
                })
            }
            Err(_elapsed) => {
                link.suspect.store(true, Ordering::Relaxed);
                self.0.look.notify_one();
                Err(Failure::TimedOut)
            }
        }
    }

    /// A command on any link; one that turns out to be lost costs a try on another.
    async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        name: (&'static str, u64),
        command: impl Fn(&mut State, Connection) -> Result<T, Broken> + Clone + Send + 'static,
    ) -> Result<(T, Arc<Link>), Failure> {
        let mut lost = 0;
        loop {
            let link = timeout_at(deadline, self.pick())
                .await
                .map_err(|_| Failure::TimedOut)??;
            match self.run_on(&link, deadline, name, command.clone()).await {
                Ok(answer) => return Ok((answer, link)),
                Err(Failure::Lost) if lost < LINKS => lost += 1,
                Err(failure) => return Err(failure),
            }
        }
    }

    fn give_up(&self, link: &Link) {
        link.dead.store(true, Ordering::Relaxed);
        self.0.look.notify_one();
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.deadline
    }

    /// The keeper: opens, checks and replaces links.
    async fn keep(self) {
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
            self.0
                .hopeful
                .store(usable > 0 || !failed, Ordering::Relaxed);
            self.0.opened.notify_waiters();
            let until = recheck.saturating_duration_since(Instant::now());
            let wait = if usable == LINKS {
                until
            } else {
                until.min(RETRY_EVERY)
            };
            let _ = timeout(wait, self.0.look.notified()).await;
            // What callers report must not turn into a storm of connection attempts.
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn replace_missing(&self) -> Result<(), Failure> {
        self.lock_links()
            .retain(|link| !link.dead.load(Ordering::Relaxed));
        while self.links().len() < LINKS {
            let call = self.call("connect", 0, None);
            let opening = self.0.world.ask(call, |state| Step::Done(state.connect()));
            let opened = timeout(PATIENCE, opening).await;
            let (connection, identity) = match opened {
                Ok(Ok(opened)) if opened.1.is_master => opened,
                Ok(Ok(_)) => return Err(Failure::Refused),
                Ok(Err(_)) => return Err(Failure::Lost),
                Err(_) => return Err(Failure::TimedOut),
            };
            self.lock_links().push(Arc::new(Link {
                connection,
                identity: Mutex::new(identity),
                dead: AtomicBool::new(false),
                suspect: AtomicBool::new(false),
                in_flight: AtomicUsize::new(0),
            }));
            self.0.hopeful.store(true, Ordering::Relaxed);
            self.0.opened.notify_waiters();
        }
        Ok(())
    }

    fn lock_links(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Link>>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In time: usable. Late: suspect. Not at all, or no master: dead.
    async fn check(&self, link: &Arc<Link>) {
        let connection = link.connection;
        let call = self.call("INFO", connection.number, Some(connection.number));
        let asked = Instant::now();
        let answer = self
            .0
            .world
            .ask(call, move |state| Step::Done(state.info(connection)));
        let mut answer = std::pin::pin!(answer);
        let answered = match timeout_at(asked + DEADLINE, &mut answer).await {
            Ok(answered) => {
                link.suspect.store(false, Ordering::Relaxed);
                Some(answered)
            }
            Err(_late) => {
                link.suspect.store(true, Ordering::Relaxed);
                timeout_at(asked + PATIENCE, answer).await.ok()
            }
        };
        match answered {
            Some(Ok(identity)) if identity.is_master => {
                *link.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
            }
            _ => self.give_up(link),
        }
    }

    fn nonce(&self) -> u64 {
        if self.0.mistake == Some(Mistake::NonceReused) {
            return 7;
        }
        let count = self.0.nonces.fetch_add(1, Ordering::Relaxed);
        crate::dice::mix(&[self.0.node.into(), self.0.life.into(), count])
    }

    /// What a GET's answer means.
    fn judge(
        found: Option<Value>,
        present: Incarnation,
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Judged {
        match found {
            None => Judged::Lease(None),
            Some(Value::Lease(_) | Value::Fence) => Judged::Held,
            Some(Value::Copy {
                incarnation,
                serial,
                entry,
            }) => {
                let outlived = incarnation.is_some_and(|of| of != present);
                match judge(&entry) {
                    Belief::Believed if !outlived => Judged::Hit(entry),
                    // Not for now only: its place is kept.
                    Belief::Unsure if !outlived => Judged::Held,
                    _ => Judged::Lease(Some(Value::Copy {
                        incarnation,
                        serial,
                        entry,
                    })),
                }
            }
        }
    }

    fn saw(&self, event: Event) {
        self.0.world.lock().coverage.saw(event);
    }

    async fn take_lease(
        &self,
        digest: TokenDigest,
        link: Arc<Link>,
        deadline: Instant,
        dead: Option<Value>,
    ) -> Lookup<SimulatedLease> {
        let nonce = self.nonce();
        let lease = SimulatedLease {
            digest,
            nonce,
            incarnation: link.identity().incarnation,
            link: Arc::clone(&link),
        };
        if self.0.mistake == Some(Mistake::TombstoneAndSetNx) {
            return Lookup::Leased(lease);
        }
        let replaces = dead.is_some();
        let command = match dead {
            None => Command::SetNx(Value::Lease(nonce)),
            Some(dead) => Command::CompareAndSet(dead, Value::Lease(nonce)),
        };
        let granted = self
            .run_on(
                &link,
                deadline,
                ("SET NX", number(&digest)),
                move |state, over| state.write(over, digest, &command, millis(LEASE)),
            )
            .await;
        match granted {
            Ok(true) => {
                if replaces {
                    self.saw(Event::ReplacedCopy);
                }
                Lookup::Leased(lease)
            }
            Ok(false) => {
                self.saw(Event::RefusedLease);
                Lookup::DoNotFill
            }
            Err(Failure::Refused) => Lookup::Refused(Failure::Refused.into()),
            Err(failure) => Lookup::Failed(failure.into()),
        }
    }

    /// One digest. (A look-up of several is a pipeline of these; no schedule asks for several.)
    async fn look_up(
        &self,
        digest: TokenDigest,
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Lookup<SimulatedLease> {
        let deadline = self.deadline();
        let get = move |state: &mut State, over| state.get(over, &digest);
        let (found, link) = match self.run(deadline, ("GET", number(&digest)), get).await {
            Ok(found) => found,
            Err(failure) => return Lookup::Failed(failure.into()),
        };
        match Self::judge(found, link.identity().incarnation, judge) {
            Judged::Hit(entry) => {
                self.saw(Event::Hit);
                Lookup::Hit(entry)
            }
            Judged::Held => {
                self.saw(Event::RefusedLease);
                Lookup::DoNotFill
            }
            Judged::Lease(dead) => self.take_lease(digest, link, deadline, dead).await,
        }
    }

    async fn write_all(
        &self,
        what: &'static str,
        digests: &[TokenDigest],
        command: Command,
        lifetime: Millis,
    ) -> Result<Arc<Link>, CacheError> {
        let mut digests = digests.to_vec();
        digests.sort_unstable();
        let about = digests.first().map_or(0, number);
        let write = move |state: &mut State, over| {
            for digest in &digests {
                state.write(over, *digest, &command, lifetime)?;
            }
            Ok(())
        };
        let ((), link) = self.run(self.deadline(), (what, about), write).await?;
        Ok(link)
    }

    /// Does what this link acknowledged hold everywhere?
    fn reaches_everywhere(&self, link: &Link) -> bool {
        let one = link.identity();
        let same = |other: &Arc<Link>| other.identity().incarnation.0 == one.incarnation.0;
        !one.replicated && self.links().iter().all(same)
    }
}

enum Judged {
    Hit(Entry),
    Held,
    Lease(Option<Value>),
}

fn millis(span: Duration) -> Millis {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl SessionCache for SimulatedCache {
    type Lease = SimulatedLease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<SimulatedLease>> {
        let mut answers = Vec::with_capacity(digests.len());
        for digest in digests {
            answers.push(self.look_up(*digest, judge).await);
        }
        answers
    }

    async fn fill(
        &self,
        lease: SimulatedLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        let mistake = self.0.mistake;
        // Lost with its connection: another one may lead to another life of the server.
        let any_link = mistake == Some(Mistake::SealedWithThePresent);
        if lease.link.dead.load(Ordering::Relaxed) && !any_link {
            return Ok(Filled::Refused);
        }
        let granted_under = lease.incarnation;
        let (digest, nonce) = (lease.digest, lease.nonce);
        let entry = entry.clone();
        let fill = move |state: &mut State, over| {
            let incarnation = match mistake {
                Some(Mistake::SealedWithThePresent) => Some(state.info(over)?.incarnation),
                Some(Mistake::WithoutIncarnation) => None,
                _ => Some(granted_under),
            };
            let copy = Value::Copy {
                incarnation,
                serial: state.redis.new_id(),
                entry: entry.clone(),
            };
            let command = match mistake {
                Some(Mistake::WithoutALease) => Command::Set(copy),
                Some(Mistake::TombstoneAndSetNx) => Command::SetNx(copy),
                _ => Command::CompareAndSet(Value::Lease(nonce), copy),
            };
            if state.postgres.is_outdated(&entry) {
                state.coverage.saw(Event::ChangeBetweenReadAndFill);
            }
            state.write(over, digest, &command, millis(lifetime))
        };
        let name = ("fill", number(&digest));
        let deadline = self.deadline();
        let filled = if any_link {
            self.run(deadline, name, fill).await?.0
        } else {
            self.run_on(&lease.link, deadline, name, fill).await?
        };
        self.saw(if filled {
            Event::Fill
        } else {
            Event::RefusedFill
        });
        Ok(if filled {
            Filled::Stored
        } else {
            Filled::Refused
        })
    }

    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        let fence = Command::Set(Value::Fence);
        self.write_all("fence", digests, fence, millis(FENCE))
            .await?;
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        let began = self.0.world.stamp();
        let command = match self.0.mistake {
            Some(Mistake::TombstoneAndSetNx) => Command::Set(Value::Fence),
            _ => Command::Unlink,
        };
        match self
            .write_all("UNLINK", digests, command, millis(FENCE))
            .await
        {
            Ok(link) if self.reaches_everywhere(&link) => Ok(Invalidated::Everywhere),
            Ok(_) => Ok(Invalidated::Here),
            Err(error) => {
                // For the checker: what this UNLINK was to remove may still be there.
                self.0.world.lock().note_unlink_in_doubt(self.0.node, began);
                Err(error)
            }
        }
    }

    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new("redis");
        status.connected = self.least_busy().is_some();
        status.size = LINKS;
        status
    }

    async fn probe(&self) -> CacheProbe {
        CacheProbe::default()
    }

    async fn close(&self) {}
}
