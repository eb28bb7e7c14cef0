//! The port to the simulated Redis: what `RedisCache` does over a real one.
//!
//! Two links for each node, each with the incarnation that was read at its connect; a keeper that asks
//! again each second and replaces what is lost; a link that let a deadline pass is suspect until it
//! answers; leases by SET NX or compare-and-set, fills by compare-and-set on the link that granted the
//! lease. The mutants of the adapter are switched on here and nowhere else ([`Mistake`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, FENCE, Filled, Invalidated, LEASE, Lookup, SessionCache,
};
use session_layer::{CacheError, TokenDigest};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::coverage::Event;
use crate::mutants::Mistake;
use crate::redis::{Command, Incarnation, Value};
use crate::world::{Millis, State, World, number};

mod links;

use self::links::{Failure, LINKS, Link};

/// As that of `RedisCache`.
const DEADLINE: Duration = Duration::from_millis(50);
/// So long a mutant's thread does not run.
const PREEMPTED: Duration = Duration::from_millis(20);

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
            hopeful: AtomicBool::new(true),
            opened: Notify::new(),
            look: Notify::new(),
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

    /// A mutant's: a read of the journal may end between looking at the changed-set and at the age. A copy that
    /// only then was contradicted is one that the set had allowed, and the age is that of a read just ended.
    async fn judge_in_two_steps(
        found: Option<Value>,
        present: Incarnation,
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Judged {
        let at_first = match &found {
            Some(Value::Copy { entry, .. }) => judge(entry),
            _ => Belief::Dead,
        };
        sleep(PREEMPTED).await;
        Self::judge(found, present, &|entry| match judge(entry) {
            Belief::Dead if at_first == Belief::Unsure => Belief::Believed,
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
