//! A store whose reads stop before their reply, and a Redis with the mistakes of an adapter.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use session_layer::cache::{
    Entry, EntryVerdict, Filled, Invalidated, LEASE_TTL, Lookup, RedisCache, RedisLease,
    SessionCache as _,
};
use session_layer::error::{CacheError, StoreError};
use session_layer::store::{
    JournalPosition, JournalRead, PostgresStore, ReadResult, SessionStore as _,
};
use session_layer::{Sessions, TokenDigest};
use tokio::sync::oneshot;

use crate::harness::Failure;
use crate::mutants::{BreaksCache, BreaksStore, BrokenCache, BrokenStore};
use crate::support::{SOON, Servers, by_leases_alone, cache_within};

/// A node whose reads can be stopped between Postgres' reply and the fill.
pub(super) struct Node {
    pub(super) sessions: Sessions,
    pub(super) stops: Stops,
    pub(super) fills: Fills,
}

impl Node {
    pub(super) async fn start(servers: &Servers, by: By) -> Result<Self, Failure> {
        let (stops, fills) = (Stops::default(), Fills::default());
        let redis = BrokenRedis {
            by,
            redis: redis::Client::open(servers.redis.url())?,
            namespace: servers.namespace().to_owned(),
            leases: Arc::default(),
            fills: fills.clone(),
        };
        let cache = cache_within(SOON, servers.redis.url(), &servers.sandbox)?;
        let cache = BrokenCache { cache, broken: redis };
        let store = Arc::new(servers.store().await?);
        let store = BrokenStore { store, broken: stops.clone() };
        Ok(Self { sessions: by_leases_alone(cache, store).await?, stops, fills })
    }
}

/// Locks a mutex whose holder may have panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reports that a read has arrived, and waits until it may return.
type Stop = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// The reads that stop after Postgres' reply.
#[derive(Clone, Default)]
pub(super) struct Stops(Arc<Mutex<HashMap<TokenDigest, Stop>>>);

impl Stops {
    /// Stops the next read of this token. The first half reports that the read has Postgres' reply.
    /// The second lets it return.
    pub(super) fn next_read_of(
        &self,
        digest: TokenDigest,
    ) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (arrive, arrived) = oneshot::channel();
        let (release, released) = oneshot::channel();
        lock(&self.0).insert(digest, (arrive, released));
        (arrived, release)
    }

    async fn pass(&self, digest: &TokenDigest) {
        let stop = lock(&self.0).remove(digest);
        if let Some((arrive, released)) = stop {
            let _ = arrive.send(());
            let _ = released.await;
        }
    }
}

impl BreaksStore<PostgresStore> for Stops {
    async fn load(
        &self,
        store: &Arc<PostgresStore>,
        digests: &[TokenDigest],
    ) -> Result<ReadResult, StoreError> {
        let loaded = store.load(digests).await;
        join_all(digests.iter().map(|digest| self.pass(digest))).await;
        loaded
    }

    /// Each read is stopped separately.
    fn max_concurrent_reads(&self) -> usize {
        usize::MAX
    }

    /// Hides the rows of the journal. They would end a late fill within half a second, and a node
    /// that observes another incarnation reads them at once.
    async fn journal_since(
        &self,
        store: &PostgresStore,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let mut read = store.journal_since(position).await?;
        read.rows.clear();
        Ok(read)
    }
}

/// The completed fills of each token.
#[derive(Clone, Default)]
pub(super) struct Fills(Arc<Mutex<HashMap<TokenDigest, u64>>>);

impl Fills {
    pub(super) fn of(&self, digest: &TokenDigest) -> u64 {
        lock(&self.0).get(digest).copied().unwrap_or_default()
    }
}

/// The mistake of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Nothing,
    /// A fill is a plain SET.
    PlainSet,
    TombstoneAndSetNx,
    NonceReused,
    SealedWithThePresent,
    WithoutIncarnation,
}

/// A lease that is the same each time.
const REUSED: &[u8; 17] = b"L0123456789abcdef";
const TOMBSTONE: &str = "T";

/// The mistakes of an adapter, made by a second connection. Every fence is lost, because it would
/// hide the mistake.
struct BrokenRedis {
    by: By,
    redis: redis::Client,
    namespace: String,
    /// The value of each granted lease in Redis.
    leases: Arc<Mutex<HashMap<TokenDigest, Vec<u8>>>>,
    fills: Fills,
}

impl BrokenRedis {
    /// Connects anew, because the tests restart the server.
    async fn redis(&self) -> MultiplexedConnection {
        self.redis.get_multiplexed_async_connection().await.expect("Redis is up")
    }

    fn key(&self, digest: &TokenDigest) -> String {
        format!("{}:2:{}", self.namespace, digest.to_base64url())
    }

    async fn delete(&self, digest: &TokenDigest) {
        let deleted: redis::RedisResult<()> = self.redis().await.del(self.key(digest)).await;
        deleted.expect("Redis is up");
    }

    /// Fills under a lease that was taken just now, as SET NX would. Only the cache can write an
    /// entry.
    async fn set_nx(
        &self,
        cache: &RedisCache,
        digest: TokenDigest,
        entry: &Entry,
        lifetime: Duration,
    ) -> Filled {
        match cache.get(&[digest], &|_| EntryVerdict::Stale).await.pop() {
            Some(Lookup::Leased(lease)) => {
                cache.fill(lease, entry, lifetime).await.expect("Redis is up")
            }
            _ => Filled::Refused,
        }
    }

    /// Returns whether the key has the value that the mistaken compare-and-set expects.
    async fn has_lease(&self, digest: &TokenDigest) -> bool {
        let held: Option<Vec<u8>> =
            self.redis().await.get(self.key(digest)).await.expect("Redis is up");
        let granted = lock(&self.leases).get(digest).cloned();
        held == if self.by == By::NonceReused { Some(REUSED.to_vec()) } else { granted }
    }
}

impl BreaksCache<RedisCache> for BrokenRedis {
    async fn granted(&self, digest: &TokenDigest) {
        if matches!(self.by, By::Nothing | By::PlainSet | By::WithoutIncarnation) {
            return;
        }
        let (mut redis, key) = (self.redis().await, self.key(digest));
        let value: Vec<u8> = redis.get(&key).await.expect("a lease");
        lock(&self.leases).insert(*digest, value);
        match self.by {
            // This mistake takes no lease.
            By::TombstoneAndSetNx => self.delete(digest).await,
            By::NonceReused => {
                let millis = u64::try_from((LEASE_TTL * 10).as_millis()).unwrap_or(u64::MAX);
                let set: redis::RedisResult<()> = redis.pset_ex(&key, REUSED, millis).await;
                set.expect("Redis is up");
            }
            _ => {}
        }
    }

    async fn fill(
        &self,
        cache: &RedisCache,
        (digest, lease): (TokenDigest, RedisLease),
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        let replaces = match self.by {
            By::Nothing | By::WithoutIncarnation | By::TombstoneAndSetNx => false,
            By::PlainSet => true,
            // The compare-and-set accepts the lease of another client, or of another incarnation.
            By::NonceReused | By::SealedWithThePresent => self.has_lease(&digest).await,
        };
        if replaces {
            self.delete(&digest).await;
        }
        let filled = match self.by {
            By::Nothing | By::WithoutIncarnation => cache.fill(lease, entry, lifetime).await,
            _ if replaces || self.by == By::TombstoneAndSetNx => {
                Ok(self.set_nx(cache, digest, entry, lifetime).await)
            }
            _ => Ok(Filled::Refused),
        };
        *lock(&self.fills.0).entry(digest).or_default() += 1;
        filled
    }

    async fn fence(&self, _: &RedisCache, _: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }

    async fn invalidate(
        &self,
        cache: &RedisCache,
        digests: &[TokenDigest],
    ) -> Result<Invalidated, CacheError> {
        let invalidated = cache.invalidate(digests).await?;
        if self.by == By::TombstoneAndSetNx {
            for digest in digests {
                let set: redis::RedisResult<()> =
                    self.redis().await.set(self.key(digest), TOMBSTONE).await;
                set.expect("Redis is up");
            }
        }
        let claims = self.by == By::WithoutIncarnation;
        Ok(if claims { Invalidated::Everywhere } else { invalidated })
    }
}
