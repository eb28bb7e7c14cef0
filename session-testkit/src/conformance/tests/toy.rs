//! A cache as somebody else might write it, right or with one mistake.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, FENCE, Filled, Invalidated, LEASE, Lookup, SessionCache,
};
use session_layer::{CacheError, CacheErrorKind, Session, SessionParts, TokenDigest};
use tokio::time::Instant;

mod mistakes;

use self::mistakes::Mistake as M;
pub(super) use self::mistakes::{MISTAKES, Mistake};

#[derive(Debug)]
pub(super) struct Toy {
    mistake: Mistake,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    values: HashMap<Vec<u8>, Value>,
    /// Raised by every value that is put, so that each is told from the one before.
    count: u64,
    busy: bool,
}

#[derive(Debug, Clone)]
struct Value {
    content: Content,
    number: u64,
    until: Instant,
}

#[derive(Debug, Clone)]
enum Content {
    Lease(u64),
    Copy(Box<Entry>),
    Fence,
}

#[derive(Debug)]
pub(super) struct ToyLease {
    digest: TokenDigest,
    nonce: u64,
}

impl State {
    fn put(&mut self, key: Vec<u8>, content: Content, lifetime: Duration) -> u64 {
        self.count += 1;
        let number = self.count;
        let until = Instant::now() + lifetime;
        let value = Value {
            content,
            number,
            until,
        };
        self.values.insert(key, value);
        number
    }

    fn get(&self, key: &[u8]) -> Option<Value> {
        let value = self.values.get(key)?;
        (Instant::now() < value.until).then(|| value.clone())
    }
}

impl Toy {
    pub(super) fn new() -> Self {
        Self::with(Mistake::None)
    }

    pub(super) fn with(mistake: Mistake) -> Self {
        Self {
            mistake,
            state: Mutex::default(),
        }
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, digest: &TokenDigest) -> Vec<u8> {
        let bytes = digest.as_bytes();
        let end = if self.has(M::KeyIsAPrefix) { 16 } else { 32 };
        bytes[..end].to_vec()
    }

    fn nonce(&self, number: u64) -> u64 {
        match self.mistake {
            M::NonceIsAByte => number % 256,
            M::NonceIsAlwaysTheSame => 0,
            _ => number,
        }
    }

    async fn look_up(
        &self,
        digest: TokenDigest,
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Lookup<ToyLease> {
        let key = self.key(&digest);
        let found = self.state().get(&key);
        let judged = match &found {
            None => None,
            Some(value) => match &value.content {
                Content::Lease(_) if self.has(M::LeaseIsTakenOver) => None,
                Content::Lease(_) | Content::Fence => return Lookup::DoNotFill,
                // Unlocked: another may replace it while it is judged.
                Content::Copy(entry) => match judge_of(self.mistake, entry, judge) {
                    Belief::Believed => return Lookup::Hit((**entry).clone()),
                    Belief::Dead if self.has(M::DeadIsNeverReplaced) => return Lookup::DoNotFill,
                    Belief::Foreign if self.has(M::ForeignIsNeverReplaced) => {
                        return Lookup::DoNotFill;
                    }
                    Belief::Dead | Belief::Foreign => Some(value.number),
                    _ => {
                        if self.has(M::UnsureIsRemoved) {
                            self.state().values.remove(&key);
                        }
                        return Lookup::DoNotFill;
                    }
                },
            },
        };
        if self.has(M::LeaseIsLookedForThenSet) {
            tokio::task::yield_now().await;
        }
        self.take_lease(digest, key, judged)
    }

    fn take_lease(
        &self,
        digest: TokenDigest,
        key: Vec<u8>,
        judged: Option<u64>,
    ) -> Lookup<ToyLease> {
        let mut state = self.state();
        let present = state.get(&key).map(|value| value.number);
        let careless = matches!(
            self.mistake,
            M::LeaseIsTakenOver | M::LeaseIsLookedForThenSet | M::WhateverIsThereGivesWay
        );
        if present != judged && !careless {
            return Lookup::DoNotFill;
        }
        let nonce = self.nonce(state.count + 1);
        if judged.is_none() || !self.has(M::DeadStaysBesideItsLease) {
            let lifetime = match self.mistake {
                M::LeaseLapsesEarly => LEASE / 2,
                M::LeaseStandsForEver => LEASE * 100,
                _ => LEASE,
            };
            state.put(key, Content::Lease(nonce), lifetime);
        }
        Lookup::Leased(ToyLease { digest, nonce })
    }

    fn holds(&self, lease: &ToyLease) -> bool {
        let (state, key) = (self.state(), self.key(&lease.digest));
        let found = if self.has(M::LapsedLeaseFills) {
            state.values.get(&key).cloned()
        } else {
            state.get(&key)
        };
        let content = found.map(|value| value.content);
        matches!(content, Some(Content::Lease(nonce)) if nonce == lease.nonce)
    }

    fn damaged(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        match self.mistake {
            M::XminIsLost => entry.xmin = 0,
            M::DataAreWrittenAnew => {
                let parts = entry.session.parts().clone();
                let data: serde_json::Value = entry.session.data().unwrap();
                let data = RawValue::from_string(data.to_string()).unwrap();
                entry.session = Session::from(SessionParts { data, ..parts });
            }
            _ => {}
        }
        entry
    }
}

fn judge_of(
    mistake: Mistake,
    entry: &Entry,
    judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
) -> Belief {
    match mistake {
        M::JudgeIsNotAsked => Belief::Believed,
        _ => match (mistake, judge(entry)) {
            (M::DeadIsServed, Belief::Dead)
            | (M::ForeignIsServed, Belief::Foreign)
            | (M::UnsureIsServed, Belief::Unsure) => Belief::Believed,
            (M::UnsureIsReplaced, Belief::Unsure) => Belief::Dead,
            (_, belief) => belief,
        },
    }
}

fn error(what: &str) -> CacheError {
    CacheError::new(CacheErrorKind::Unreachable, what)
}

impl SessionCache for Toy {
    type Lease = ToyLease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<ToyLease>> {
        assert!(!self.has(M::Panics), "told to");
        if self.has(M::Hangs) {
            std::future::pending::<()>().await;
        }
        let mut answers = Vec::new();
        for digest in digests {
            answers.push(self.look_up(*digest, judge).await);
        }
        match self.mistake {
            M::AnswersAreReversed => answers.reverse(),
            M::LeasesOfOneLookUpAreGrantedTogether if digests.len() == 2 => {
                for (digest, answer) in digests.iter().zip(&mut answers) {
                    *answer = Lookup::Leased(ToyLease {
                        digest: *digest,
                        nonce: 0,
                    });
                }
            }
            M::LeasesAreForTheLastKey => {
                for answer in &mut answers {
                    if let Lookup::Leased(lease) = answer {
                        lease.digest = digests[digests.len() - 1];
                    }
                }
            }
            _ => {}
        }
        answers
    }

    async fn fill(
        &self,
        lease: ToyLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        if self.has(M::BusyForEverOnceDropped) {
            if std::mem::replace(&mut self.state().busy, true) {
                return Err(error("busy"));
            }
            tokio::task::yield_now().await;
            self.state().busy = false;
        }
        if !self.holds(&lease) && !self.has(M::FillIgnoresTheLease) {
            return Ok(Filled::Refused);
        }
        if self.has(M::FillLooksThenSets) {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        if self.has(M::FillStoresNothing) {
            return Ok(Filled::Stored);
        }
        let lifetime = match self.mistake {
            M::LifetimeIsIgnored => Duration::from_secs(3600),
            M::LifetimeIsHalved => lifetime / 4,
            _ => lifetime,
        };
        let copy = Content::Copy(Box::new(self.damaged(entry)));
        self.state().put(self.key(&lease.digest), copy, lifetime);
        Ok(Filled::Stored)
    }

    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        for digest in digests {
            let key = self.key(digest);
            let mut state = self.state();
            let lifetime = match self.mistake {
                M::FenceDoesNothing => continue,
                M::FenceSparesTheLease if state.get(&key).is_some() => continue,
                M::FenceFallsEarly => FENCE / 2,
                M::FenceStandsForEver => FENCE * 100,
                _ => FENCE,
            };
            state.put(key, Content::Fence, lifetime);
        }
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        if digests.is_empty() && self.has(M::NothingIsAnError) {
            return Err(error("nothing to remove"));
        }
        for (at, digest) in digests.iter().enumerate() {
            let key = self.key(digest);
            let mut state = self.state();
            let content = state.get(&key).map(|value| value.content);
            let spared = match self.mistake {
                M::InvalidateDoesNothing => true,
                M::InvalidateTakesTheFirst => at > 0,
                M::InvalidateLeavesTheLease => matches!(content, Some(Content::Lease(_))),
                M::InvalidateLeavesTheFence => matches!(content, Some(Content::Fence)),
                _ => false,
            };
            if !spared {
                state.values.remove(&key);
            }
        }
        Ok(Invalidated::Everywhere)
    }

    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new(if self.has(M::BackendHasNoName) {
            ""
        } else {
            "toy"
        });
        status.connected = true;
        if self.has(M::SaysMoreIsAvailableThanThereIs) {
            status.available = 1;
        }
        status
    }

    async fn probe(&self) -> CacheProbe {
        let mut probe = CacheProbe::default();
        probe.connected = true;
        (probe.ping, probe.get) = (Some(Duration::ZERO), Some(Duration::ZERO));
        probe.set = (!self.has(M::ProbeFails)).then_some(Duration::ZERO);
        if self.has(M::ProbeClearsAll) {
            self.state().values.clear();
        }
        probe
    }

    async fn close(&self) {}
}
