//! A cache inside this process, for development, tests, and applications of one process.
//!
//! If several processes share the store, each has its own copies. A change holds in this process at
//! once, and in the others after their next journal read.
//!
//! The cache implements the whole protocol of the shared cache: leases, fences and compare-and-set.
//! Here too, a read that is older than a revocation may try to fill after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::{
    CacheProbe, CacheStatus, Entry, EntryVerdict, FENCE_TTL, Filled, Invalidated, LEASE_TTL,
    Lookup, SessionCache,
};
use crate::model::error::CacheError;
use crate::model::token::TokenDigest;

/// A [`SessionCache`] in the memory of this process, with a fixed capacity. Clones share their
/// content.
///
/// Over `SqliteStore`, which serves one process, it is the only cache. Other processes over a
/// shared store may have copies that this cache cannot reach. A change then returns
/// [`Visibility::Committed`](crate::Visibility::Committed): it holds here at once, and in the other
/// processes within the bound.
///
/// ```
/// let cache = session_layer::cache::MemoryCache::new(100_000);
/// # let _ = cache;
/// ```
#[derive(Debug, Clone)]
pub struct MemoryCache {
    values: Cache<TokenDigest, Value>,
    /// The number of the next lease, never reused.
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
    /// The lifetime, counted from the insertion.
    lifetime: Duration,
}

#[derive(Debug, Clone)]
enum Content {
    Lease(u64),
    Session(Entry),
    Fence,
}

impl Value {
    /// Returns the weight: 1 plus 1 per KiB of data.
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

/// An expiry policy that uses each value's own lifetime.
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
    /// Creates a cache that holds at most `capacity` sessions with little data (up to 1 KiB). A
    /// session with more counts once for each KiB of it. Therefore 100,000 take at most about 200
    /// MiB, whatever is in them.
    ///
    /// Every capacity is allowed. With 0 nothing stays in the cache, and every validation reads the
    /// store.
    ///
    /// What is read often stays when the cache is full (`TinyLFU`), so a flood of unknown tokens
    /// does not drive out the sessions in use.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self::with_spans(capacity, LEASE_TTL, FENCE_TTL)
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
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Lookup<MemoryLease> {
        let rejected = match self.values.get(&digest).map(|value| value.content) {
            None => None,
            Some(Content::Lease(_) | Content::Fence) => return Lookup::DoNotFill,
            Some(Content::Session(entry)) => match verdict(&entry) {
                EntryVerdict::Fresh => return Lookup::Hit(entry),
                EntryVerdict::Stale | EntryVerdict::Foreign => Some(entry),
                EntryVerdict::Unverified => return Lookup::DoNotFill,
            },
        };
        let nonce = self.nonces.fetch_add(1, Ordering::Relaxed);
        let mut granted = false;
        self.values.entry(digest).and_compute_with(|found| {
            // Only the rejected entry is replaced: another client may have filled since.
            granted = match (found.map(|found| found.into_value().content), &rejected) {
                (None, _) => true,
                (Some(Content::Session(now)), Some(rejected)) => is_same(&now, rejected),
                (Some(_), _) => false,
            };
            if granted {
                Op::Put(Value { content: Content::Lease(nonce), lifetime: self.lease })
            } else {
                Op::Nop
            }
        });
        if granted { Lookup::Leased(MemoryLease { digest, nonce }) } else { Lookup::DoNotFill }
    }

    fn put_if_leased(&self, lease: &MemoryLease, entry: &Entry, lifetime: Duration) -> Filled {
        let mut filled = Filled::Refused;
        self.values.entry(lease.digest).and_compute_with(|found| {
            if !found.is_some_and(|found| found.value().is_lease(lease.nonce)) {
                return Op::Nop;
            }
            filled = Filled::Stored;
            Op::Put(Value { content: Content::Session(entry.clone()), lifetime })
        });
        filled
    }

    /// Applies `by` to each key through a compute. moka's `insert` and `invalidate` may run between
    /// the read and the write of a compute on the same key, which then overwrites them. Computes on
    /// one key are serialized.
    fn replace(&self, digests: &[TokenDigest], by: impl Fn() -> Op<Value>) {
        for digest in digests {
            self.values.entry(*digest).and_compute_with(|_| by());
        }
    }
}

/// Returns whether `now` is the same copy that was judged.
fn is_same(now: &Entry, judged: &Entry) -> bool {
    now.session.is_same_copy(&judged.session) && now.not_after == judged.not_after
}

impl SessionCache for MemoryCache {
    type Lease = MemoryLease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<MemoryLease>> {
        digests.iter().map(|digest| self.look_up(*digest, verdict)).collect()
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
        self.replace(digests, || Op::Put(Value { content: Content::Fence, lifetime: self.fence }));
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
        self.replace(&[key], || Op::Put(Value { content: Content::Fence, lifetime: self.fence }));
        let set = began.elapsed();
        let there = self.values.contains_key(&key);
        let get = began.elapsed() - set;
        self.replace(&[key], || Op::Remove);
        CacheProbe {
            connected: true,
            ping: Some(Duration::ZERO),
            set: Some(set),
            // A full cache may reject a key without previous look-ups. That is no failure.
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
