//! `RedisCache` with a hand in what it writes: the mistakes of an adapter, made from outside by a
//! second connection. Every fence is lost, so that it hides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use session_layer::TokenDigest;
use session_layer::cache::{
    CacheIdentity, CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated, LEASE_TTL,
    Lookup, RedisCache, RedisLease, SessionCache,
};
use session_layer::error::CacheError;
use session_testkit::backends::Sandbox;

use crate::harness::Failure;
use crate::support::cache;

/// A lease that is the same each time.
const REUSED: &[u8; 17] = b"L0123456789abcdef";
const TOMBSTONE: &str = "T";

/// Which mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Nothing,
    TombstoneAndSetNx,
    NonceReused,
    SealedWithThePresent,
    WithoutIncarnation,
}

/// How many fills there were.
#[derive(Debug, Default)]
pub(super) struct Fills(AtomicU64);

impl Fills {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub(super) struct Tampered {
    cache: RedisCache,
    by: By,
    redis: redis::Client,
    namespace: String,
    fills: Arc<Fills>,
}

/// A lease, and what it is in Redis.
pub(super) struct Lease {
    digest: TokenDigest,
    lease: RedisLease,
    value: Vec<u8>,
}

impl Tampered {
    pub(super) async fn new(redis_url: &str, sandbox: &Sandbox, by: By) -> Result<Self, Failure> {
        Ok(Self {
            cache: cache(redis_url, sandbox)?,
            by,
            redis: redis::Client::open(redis_url)?,
            namespace: sandbox.namespace().to_owned(),
            fills: Arc::default(),
        })
    }

    pub(super) fn fills(&self) -> Arc<Fills> {
        Arc::clone(&self.fills)
    }

    /// A connection of now: the servers are restarted at times.
    async fn redis(&self) -> MultiplexedConnection {
        let connection = self.redis.get_multiplexed_async_connection().await;
        connection.expect("Redis is there")
    }

    fn key(&self, digest: &TokenDigest) -> String {
        format!("{}:2:{}", self.namespace, digest.to_base64url())
    }

    /// What the mistake makes of a lease that was just granted.
    async fn leased(&self, digest: TokenDigest, lease: RedisLease) -> Lease {
        let mut redis = self.redis().await;
        let key = self.key(&digest);
        let value: Vec<u8> = redis.get(&key).await.expect("a lease");
        let tampered: redis::RedisResult<()> = match self.by {
            // It reads, and takes nothing.
            By::TombstoneAndSetNx => redis.del(&key).await,
            By::NonceReused => redis.pset_ex(&key, REUSED, millis(LEASE_TTL * 10)).await,
            _ => Ok(()),
        };
        tampered.expect("Redis is there");
        Lease { digest, lease, value }
    }

    /// A fill under a lease taken just now, where nothing is: what SET NX would do.
    async fn set_nx(&self, digest: TokenDigest, entry: &Entry, lifetime: Duration) -> Filled {
        let leased = self.cache.get(&[digest], &|_| EntryVerdict::Stale).await.pop();
        match leased {
            Some(Lookup::Leased(lease)) => {
                self.cache.fill(lease, entry, lifetime).await.expect("Redis is there")
            }
            _ => Filled::Refused,
        }
    }

    /// The bytes under the key, if it is these.
    async fn holds(&self, digest: &TokenDigest, value: &[u8]) -> bool {
        let held: Option<Vec<u8>> =
            self.redis().await.get(self.key(digest)).await.expect("Redis is there");
        held.as_deref() == Some(value)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl SessionCache for Tampered {
    type Lease = Lease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<Lease>> {
        let found = self.cache.get(digests, judge).await;
        let mut answers = Vec::with_capacity(found.len());
        for (digest, lookup) in digests.iter().zip(found) {
            answers.push(match lookup {
                Lookup::Hit(entry) => Lookup::Hit(entry),
                Lookup::Leased(lease) => Lookup::Leased(self.leased(*digest, lease).await),
                Lookup::Failed(error) => Lookup::Failed(error),
                _ => Lookup::DoNotFill,
            });
        }
        answers
    }

    async fn fill(
        &self,
        Lease { digest, lease, value }: Lease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        let filled = match self.by {
            By::Nothing | By::WithoutIncarnation => self.cache.fill(lease, entry, lifetime).await,
            By::TombstoneAndSetNx => Ok(self.set_nx(digest, entry, lifetime).await),
            // The compare-and-set of a lease that anyone may hold, or of one from another life: in
            // its place goes what the present link seals.
            By::NonceReused | By::SealedWithThePresent => {
                let lease = if self.by == By::NonceReused { REUSED } else { value.as_slice() };
                if self.holds(&digest, lease).await {
                    let removed: redis::RedisResult<()> =
                        self.redis().await.del(self.key(&digest)).await;
                    removed.expect("Redis is there");
                    Ok(self.set_nx(digest, entry, lifetime).await)
                } else {
                    Ok(Filled::Refused)
                }
            }
        };
        self.fills.0.fetch_add(1, Ordering::SeqCst);
        filled
    }

    async fn fence(&self, _digests: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        let invalidated = self.cache.invalidate(digests).await?;
        match self.by {
            By::TombstoneAndSetNx => {
                for digest in digests {
                    let put: redis::RedisResult<()> =
                        self.redis().await.set(self.key(digest), TOMBSTONE).await;
                    put.expect("Redis is there");
                }
                Ok(invalidated)
            }
            By::WithoutIncarnation => Ok(Invalidated::Everywhere),
            _ => Ok(invalidated),
        }
    }

    fn identity(&self) -> CacheIdentity {
        self.cache.identity()
    }
    fn status(&self) -> CacheStatus {
        self.cache.status()
    }
    async fn probe(&self) -> CacheProbe {
        self.cache.probe().await
    }
    async fn close(&self) {
        self.cache.close().await;
    }
}
