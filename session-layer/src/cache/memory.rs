//! The cache inside this process: for development, tests, and applications that are one process.
//!
//! Over a store that other processes share, each has copies of its own: a change holds here at once, and
//! there when they have read of it in the journal. `invalidate` says that it is about this process only.
//!
//! It keeps the protocol of the shared cache to the letter (leases, fences, compare-and-set), because
//! here too a read that is older than a revocation may come to fill after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::{
    Belief, CacheProbe, CacheStatus, Entry, FENCE, Filled, Invalidated, LEASE, Lookup, SessionCache,
};
use crate::error::CacheError;
use crate::token::TokenDigest;

/// A [`SessionCache`] in this process's memory, of a given capacity. Cheap to clone; clones share
/// what they hold.
///
/// Over `SqliteStore`, which is for one process, it is the one cache there is. Over a store that others
/// share they may have copies that this one can't reach, so a change is answered with
/// [`Reach::Committed`](crate::Reach::Committed): it holds here at once, there within the bound.
///
/// ```
/// let cache = session_layer::cache::MemoryCache::new(100_000);
/// # let _ = cache;
/// ```
#[derive(Debug, Clone)]
pub struct MemoryCache {
    values: Cache<TokenDigest, Value>,
    /// The next lease's number. None is ever used twice.
    nonces: Arc<AtomicU64>,
    lease: Duration,
    fence: Duration,
}

/// The right to fill one key of a [`MemoryCache`], once.
#[derive(Debug)]
pub struct MemoryLease {
    digest: TokenDigest,
    nonce: u64,
}

#[derive(Debug, Clone)]
struct Value {
    content: Content,
    /// How long it stays, from when it was put there.
    lifetime: Duration,
}

#[derive(Debug, Clone)]
enum Content {
    Lease(u64),
    Session(Entry),
    Fence,
}

impl Value {
    /// One, and one for each KiB of data.
    fn weight(&self) -> u32 {
        match &self.content {
            Content::Session(entry) => {
                let kib = entry.session.data_json().len() / 1024;
                u32::try_from(kib).unwrap_or(u32::MAX).saturating_add(1)
            }
            Content::Lease(_) | Content::Fence => 1,
        }
    }

    fn is_lease(&self, nonce: u64) -> bool {
        matches!(self.content, Content::Lease(held) if held == nonce)
    }
}

/// Each value says itself how long it stays.
struct ByValue;

impl Expiry<TokenDigest, Value> for ByValue {
    fn expire_after_create(&self, _: &TokenDigest, value: &Value, _: Instant) -> Option<Duration> {
        Some(value.lifetime)
    }

    fn expire_after_update(
        &self,
        _: &TokenDigest,
        value: &Value,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(value.lifetime)
    }
}

impl MemoryCache {
    /// A cache that holds at most `capacity` sessions with little data (up to 1 KiB); one with more counts
    /// once for each KiB of it. So 100,000 take about 200 MiB at most, whatever is in them.
    ///
    /// What is asked for often stays when it is full (`TinyLFU`), so a flood of unknown tokens does not
    /// drive out the sessions in use.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self::with_spans(capacity, LEASE, FENCE)
    }

    fn with_spans(capacity: u64, lease: Duration, fence: Duration) -> Self {
        Self {
            values: Cache::builder()
                .max_capacity(capacity)
                .weigher(|_, value: &Value| value.weight())
                .expire_after(ByValue)
                .build(),
            nonces: Arc::default(),
            lease,
            fence,
        }
    }

    fn look_up(
        &self,
        digest: TokenDigest,
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Lookup<MemoryLease> {
        let dead = match self.values.get(&digest).map(|value| value.content) {
            None => None,
            Some(Content::Lease(_) | Content::Fence) => return Lookup::DoNotFill,
            Some(Content::Session(entry)) => match judge(&entry) {
                Belief::Believed => return Lookup::Hit(entry),
                Belief::Dead | Belief::Foreign => Some(entry),
                Belief::Unsure => return Lookup::DoNotFill,
            },
        };
        let nonce = self.nonces.fetch_add(1, Ordering::Relaxed);
        let mut granted = false;
        self.values.entry(digest).and_compute_with(|found| {
            // Only what was judged above gives way: another may have filled since.
            granted = match (found.map(|found| found.into_value().content), &dead) {
                (None, _) => true,
                (Some(Content::Session(now)), Some(dead)) => is_same(&now, dead),
                (Some(_), _) => false,
            };
            if granted {
                Op::Put(Value {
                    content: Content::Lease(nonce),
                    lifetime: self.lease,
                })
            } else {
                Op::Nop
            }
        });
        if granted {
            Lookup::Leased(MemoryLease { digest, nonce })
        } else {
            Lookup::DoNotFill
        }
    }

    fn put_if_leased(&self, lease: &MemoryLease, entry: &Entry, lifetime: Duration) -> Filled {
        let mut filled = Filled::Refused;
        self.values.entry(lease.digest).and_compute_with(|found| {
            if !found.is_some_and(|found| found.value().is_lease(lease.nonce)) {
                return Op::Nop;
            }
            filled = Filled::Stored;
            Op::Put(Value {
                content: Content::Session(entry.clone()),
                lifetime,
            })
        });
        filled
    }

    /// Not moka's `insert`, nor its `invalidate`: these may come between the look and the write of a
    /// compute on the same key, which would then write over them. Computes take turns.
    fn replace(&self, digests: &[TokenDigest], by: impl Fn() -> Op<Value>) {
        for digest in digests {
            self.values.entry(*digest).and_compute_with(|_| by());
        }
    }
}

/// Is it the very copy that was judged?
fn is_same(now: &Entry, judged: &Entry) -> bool {
    std::ptr::eq(now.session.parts(), judged.session.parts()) && now.not_after == judged.not_after
}

impl SessionCache for MemoryCache {
    type Lease = MemoryLease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<MemoryLease>> {
        digests
            .iter()
            .map(|digest| self.look_up(*digest, judge))
            .collect()
    }

    async fn fill(
        &self,
        lease: MemoryLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        Ok(self.put_if_leased(&lease, entry, lifetime))
    }

    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        self.replace(digests, || {
            Op::Put(Value {
                content: Content::Fence,
                lifetime: self.fence,
            })
        });
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        self.replace(digests, || Op::Remove);
        Ok(Invalidated::InThisProcess)
    }

    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new("memory");
        status.connected = true;
        status
    }

    async fn probe(&self) -> CacheProbe {
        // No token has this digest.
        let key = TokenDigest::from_bytes([0; 32]);
        let began = Instant::now();
        self.replace(&[key], || {
            Op::Put(Value {
                content: Content::Fence,
                lifetime: self.fence,
            })
        });
        let set = began.elapsed();
        let there = self.values.contains_key(&key);
        let get = began.elapsed() - set;
        self.replace(&[key], || Op::Remove);
        CacheProbe {
            connected: true,
            ping: Some(Duration::ZERO),
            set: Some(set),
            // A full cache may refuse a key that nobody ever asked for: no fault of it.
            get: there.then_some(get),
            total_keys: Some(self.values.entry_count()),
            ..CacheProbe::default()
        }
    }

    async fn close(&self) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;
