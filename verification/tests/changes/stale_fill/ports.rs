//! The two ports with a hand in them: a store whose reads can be stopped on their way back, and a
//! cache that loses every fence and, as a mutant, fills without looking at its lease.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use session_layer::TokenDigest;
use session_layer::cache::{
    Entry, EntryVerdict, Filled, Lookup, RedisCache, RedisLease, SessionCache,
};
use session_layer::error::{CacheError, StoreError};
use session_layer::store::{JournalPosition, JournalRead, PostgresStore, ReadResult, SessionStore};
use session_testkit::backends::{Backends, Sandbox};
use tokio::sync::oneshot;

use crate::harness::Failure;
use crate::mutants::{BreaksCache, BreaksStore, BrokenCache};
use crate::support::{SOON, cache_within};

/// Tells that the read is there, and waits for being told to go on.
type Stop = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// Reads that are to stop on their way back from Postgres.
#[derive(Clone, Default)]
pub(crate) struct Stops(Arc<Mutex<HashMap<TokenDigest, Stop>>>);

impl Stops {
    /// The first half says when the read has Postgres' answer, the second lets it return.
    pub(crate) fn next_read_of(
        &self,
        digest: TokenDigest,
    ) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (arrive, arrived) = oneshot::channel();
        let (go_on, gone_on) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, (arrive, gone_on));
        (arrived, go_on)
    }

    async fn pass(&self, digest: &TokenDigest) {
        let stop = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
        if let Some((arrive, gone_on)) = stop {
            let _ = arrive.send(());
            let _ = gone_on.await;
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

    /// Each is stopped by itself.
    fn max_concurrent_reads(&self) -> usize {
        usize::MAX
    }

    async fn journal_since(
        &self,
        store: &PostgresStore,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        // Here leases have to do alone: the journal would end a late fill within half a second, and
        // a node that meets another incarnation reads it at once.
        let mut read = store.journal_since(position).await?;
        read.rows.clear();
        Ok(read)
    }
}

/// How the fill is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FillBy {
    /// As it should be.
    Lease,
    /// The mistake: SET, whatever stands there.
    PlainSet,
}

/// Fills that were attempted, by digest.
#[derive(Default)]
pub(super) struct LateFills(Mutex<HashMap<TokenDigest, AtomicU64>>);

impl LateFills {
    fn add(&self, digest: TokenDigest) {
        let mut fills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fills.entry(digest).or_default().fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn of(&self, digest: &TokenDigest) -> u64 {
        let fills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fills.get(digest).map_or(0, |fills| fills.load(Ordering::SeqCst))
    }
}

/// How a Redis is broken on which every fence is lost, and, as a mutant, fills don't look at their
/// lease.
pub(super) struct Faulty {
    fill: FillBy,
    redis: MultiplexedConnection,
    namespace: String,
    pub(super) late_fills: Arc<LateFills>,
}

impl Faulty {
    pub(super) async fn cache(
        backends: &Backends,
        sandbox: &Sandbox,
        fill: FillBy,
    ) -> Result<BrokenCache<RedisCache, Self>, Failure> {
        Ok(BrokenCache {
            cache: cache_within(SOON, sandbox.redis_url(), sandbox)?,
            broken: Self {
                fill,
                redis: backends.redis().connect().await?,
                namespace: sandbox.namespace().to_owned(),
                late_fills: Arc::default(),
            },
        })
    }

    /// What a plain SET does: whatever stands there is replaced. (Made of DEL and a lease taken
    /// after the read, since only the cache can write an entry.)
    async fn plain_set(
        &self,
        cache: &RedisCache,
        digest: TokenDigest,
        entry: &Entry,
        lifetime: Duration,
    ) -> redis::RedisResult<()> {
        let key = format!("{}:2:{}", self.namespace, digest.to_base64url());
        let () = self.redis.clone().del(key).await?;
        let leased = cache.get(&[digest], &|_| EntryVerdict::Stale).await.pop();
        let Some(Lookup::Leased(lease)) = leased else {
            panic!("no lease for an empty key: {leased:?}")
        };
        let filled = cache.fill(lease, entry, lifetime).await;
        assert!(matches!(filled, Ok(Filled::Stored)), "{filled:?}");
        Ok(())
    }
}

impl BreaksCache<RedisCache> for Faulty {
    async fn fill(
        &self,
        cache: &RedisCache,
        (digest, lease): (TokenDigest, RedisLease),
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        let filled = match self.fill {
            FillBy::Lease => cache.fill(lease, entry, lifetime).await,
            FillBy::PlainSet => {
                self.plain_set(cache, digest, entry, lifetime).await.expect("Redis is there");
                Ok(Filled::Stored)
            }
        };
        self.late_fills.add(digest);
        filled
    }

    async fn fence(&self, _: &RedisCache, _: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }
}
