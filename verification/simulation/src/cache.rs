//! The port to the simulated Redis, with the rules of `RedisCache`.
//!
//! Each node has two links, each with the incarnation that was read at its connect. A keeper checks
//! them each second, and replaces those that are lost. Leases are taken by SET NX or
//! compare-and-set. Fills use compare-and-set on the link that granted the lease. A [`Mistake`] of
//! the adapter drops one of these rules.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::TokenDigest;
use session_layer::cache::{
    CacheIdentity, CacheProbe, CacheStatus, Entry, EntryVerdict, FENCE_TTL, Filled, Invalidated,
    LEASE_TTL, Lookup, SessionCache,
};
use session_layer::error::CacheError;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::coverage::Event;
use crate::mutants::Mistake;
use crate::redis::{Command, Incarnation, Value};
use crate::world::{Millis, State, World, number};

mod links;

use self::links::{Failure, LINKS, Link};

/// The deadline of `RedisCache`.
const DEADLINE: Duration = Duration::from_millis(50);
/// For how long the thread of a mutant is preempted.
const PREEMPTED: Duration = Duration::from_millis(20);

/// The cache of one node.
#[derive(Clone)]
pub(crate) struct SimulatedCache(Arc<Shared>);

struct Shared {
    world: Arc<World>,
    node: u32,
    life: u32,
    deadline: Duration,
    links: Mutex<Vec<Arc<Link>>>,
    /// Redis was not found down.
    reachable: AtomicBool,
    /// A link was opened, or Redis was found down.
    opened: Notify,
    /// A link needs a check.
    check: Notify,
    mistake: Option<Mistake>,
    nonces: AtomicU64,
}

/// The right to fill one key.
pub(crate) struct SimulatedLease {
    digest: TokenDigest,
    nonce: u64,
    link: Arc<Link>,
    incarnation: Incarnation,
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
            reachable: AtomicBool::new(true),
            opened: Notify::new(),
            check: Notify::new(),
            mistake,
            nonces: AtomicU64::new(0),
        }));
        tokio::spawn(cache.clone().keep());
        cache
    }

    fn nonce(&self) -> u64 {
        if self.0.mistake == Some(Mistake::NonceReused) {
            return 7;
        }
        let count = self.0.nonces.fetch_add(1, Ordering::Relaxed);
        crate::random::mix(&[self.0.node.into(), self.0.life.into(), count])
    }

    /// Decides on the value that GET returned.
    fn judge(
        found: Option<Value>,
        present: Incarnation,
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Judged {
        match found {
            None => Judged::Lease(None),
            Some(Value::Lease(_) | Value::Fence) => Judged::Held,
            Some(Value::Entry { incarnation, serial, entry }) => {
                let is_other = incarnation.is_some_and(|of| of != present);
                match judge(&entry) {
                    EntryVerdict::Fresh if !is_other => Judged::Hit(entry),
                    // It may be fresh later, and keeps its place.
                    EntryVerdict::Unverified if !is_other => Judged::Held,
                    _ => Judged::Lease(Some(Value::Entry { incarnation, serial, entry })),
                }
            }
        }
    }

    /// Judges as a mutant that reads the changed-set first, and the age later. A journal read may
    /// end in between. An entry that is rejected only then was allowed by the set.
    async fn judge_in_two_steps(
        found: Option<Value>,
        present: Incarnation,
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Judged {
        let at_first = match &found {
            Some(Value::Entry { entry, .. }) => judge(entry),
            _ => EntryVerdict::Stale,
        };
        sleep(PREEMPTED).await;
        Self::judge(found, present, &|entry| match judge(entry) {
            EntryVerdict::Stale if at_first == EntryVerdict::Unverified => EntryVerdict::Fresh,
            then => then,
        })
    }

    fn saw(&self, event: Event) {
        self.0.world.lock().coverage.saw(event);
    }

    async fn take_lease(
        &self,
        digest: TokenDigest,
        link: Arc<Link>,
        deadline: Instant,
        rejected: Option<Value>,
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
        let replaces = rejected.is_some();
        let command = match rejected {
            None => Command::SetNx(Value::Lease(nonce)),
            Some(rejected) => Command::CompareAndSet(rejected, Value::Lease(nonce)),
        };
        let granted = self
            .run_on(&link, deadline, ("SET NX", number(&digest)), move |state, over| {
                state.write(over, digest, &command, millis(LEASE_TTL))
            })
            .await;
        match granted {
            Ok(true) => {
                self.0.world.lock().coverage.saw_if(Event::ReplacedEntry, replaces);
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

    /// Looks one digest up. A pipeline of several is not simulated.
    async fn look_up(
        &self,
        digest: TokenDigest,
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Lookup<SimulatedLease> {
        let deadline = self.deadline();
        let get = move |state: &mut State, over| state.get(over, &digest);
        let (found, link) = match self.run(deadline, ("GET", number(&digest)), get).await {
            Ok(found) => found,
            Err(failure) => return Lookup::Failed(failure.into()),
        };
        let judged = if self.0.mistake == Some(Mistake::AgeAfterTheSet) {
            Self::judge_in_two_steps(found, link.identity().incarnation, judge).await
        } else {
            Self::judge(found, link.identity().incarnation, judge)
        };
        match judged {
            Judged::Hit(entry) => {
                self.saw(Event::Hit);
                Lookup::Hit(entry)
            }
            Judged::Held => {
                self.saw(Event::RefusedLease);
                Lookup::DoNotFill
            }
            Judged::Lease(rejected) => self.take_lease(digest, link, deadline, rejected).await,
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

    /// Returns whether an acknowledgement over this link holds on every node.
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
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<SimulatedLease>> {
        let mut found = Vec::with_capacity(digests.len());
        for digest in digests {
            found.push(self.look_up(*digest, judge).await);
        }
        found
    }

    async fn fill(
        &self,
        lease: SimulatedLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        let mistake = self.0.mistake;
        // The lease is lost with its connection, because another one may lead to another server.
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
            let serial = state.redis.new_id();
            let value = Value::Entry { incarnation, serial, entry: entry.clone() };
            let command = match mistake {
                Some(Mistake::WithoutALease) => Command::Set(value),
                Some(Mistake::TombstoneAndSetNx) => Command::SetNx(value),
                _ => Command::CompareAndSet(Value::Lease(nonce), value),
            };
            let is_outdated = state.postgres.is_outdated(&entry);
            state.coverage.saw_if(Event::ChangeBetweenReadAndFill, is_outdated);
            state.write(over, digest, &command, millis(lifetime))
        };
        let name = ("fill", number(&digest));
        let deadline = self.deadline();
        let filled = if any_link {
            self.run(deadline, name, fill).await?.0
        } else {
            self.run_on(&lease.link, deadline, name, fill).await?
        };
        self.saw(if filled { Event::Fill } else { Event::RefusedFill });
        Ok(if filled { Filled::Stored } else { Filled::Refused })
    }

    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        let fence = Command::Set(Value::Fence);
        self.write_all("fence", digests, fence, millis(FENCE_TTL)).await?;
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        let began = self.0.world.stamp();
        let command = match self.0.mistake {
            Some(Mistake::TombstoneAndSetNx) => Command::Set(Value::Fence),
            _ => Command::Unlink,
        };
        match self.write_all("UNLINK", digests, command, millis(FENCE_TTL)).await {
            Ok(link) if self.reaches_everywhere(&link) => Ok(Invalidated::Everywhere),
            Ok(_) => Ok(Invalidated::Here),
            Err(error) => {
                self.0.world.lock().record_lost_unlink(self.0.node, began);
                Err(error)
            }
        }
    }

    fn identity(&self) -> CacheIdentity {
        let links = self.links();
        let open = links.iter().filter(|link| !link.dead.load(Ordering::Relaxed));
        let mut ids = open.map(|link| link.cache_id());
        match ids.next() {
            Some(first) if ids.all(|other| other == first) => CacheIdentity::Shared(first),
            _ => CacheIdentity::Unsettled,
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
