//! Nodes whose Redis acknowledges UNLINKs and fences and loses them, as in a failover right after.
//! The entries remain, and the bounds decide how long they are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_layer::cache::{Invalidated, SessionCache};
use session_layer::error::CacheError;
use session_layer::store::PostgresStore;
use session_layer::{Created, PartitionPolicy, Sessions, TokenDigest};
use session_testkit::backends::Sandbox;
use session_testkit::wait;
use tokio::time::Instant;

use crate::harness::Failure;
use crate::mutants::{BreaksCache, BrokenCache};
use crate::support::{SOON, Servers, ask, cache_within};

/// The nodes' journal interval. D is four of it.
const INTERVAL: Duration = Duration::from_millis(250);
pub(crate) const D: Duration = Duration::from_secs(1);
/// A TTL that a test can wait for, and that exceeds D on a busy machine.
const TTL: Duration = Duration::from_secs(6);
/// The bound of an entry that is not removed: the TTL, and the lifetime of a lease.
pub(crate) const AT_MOST: Duration = Duration::from_secs(8);
/// How long the tests validate after a bound.
const BEYOND: Duration = Duration::from_millis(300);

/// A Redis that acknowledges removals and loses them while the flag is set.
pub(crate) struct Forgetful {
    loses: Arc<AtomicBool>,
}

impl<C: SessionCache> BreaksCache<C> for Forgetful {
    async fn fence(&self, cache: &C, digests: &[TokenDigest]) -> Result<(), CacheError> {
        if self.loses.load(Ordering::SeqCst) {
            return Ok(());
        }
        cache.fence(digests).await
    }
    /// Acknowledges with `Here`, because what was lost may return.
    async fn invalidate(
        &self,
        cache: &C,
        digests: &[TokenDigest],
    ) -> Result<Invalidated, CacheError> {
        if self.loses.load(Ordering::SeqCst) {
            return Ok(Invalidated::Here);
        }
        cache.invalidate(digests).await
    }
}

/// Returns a migrated store whose deadlines fit a busy machine.
pub(crate) async fn patient_store(
    database_url: &str,
    servers: &Servers,
) -> Result<PostgresStore, Failure> {
    let store = PostgresStore::builder(database_url)
        .schema(servers.schema())
        .read_deadline(SOON)
        .change_deadline(SOON)
        .build()?;
    store.migrate().await?;
    Ok(store)
}

/// Creates a node that loses its removals while `loses` is set. A slow cache stays in use.
pub(crate) fn node(
    redis_url: &str,
    store: PostgresStore,
    sandbox: &Sandbox,
    policy: PartitionPolicy,
    loses: &Arc<AtomicBool>,
) -> Result<Sessions, Failure> {
    let loses = Arc::clone(loses);
    let cache = BrokenCache {
        cache: cache_within(Duration::from_millis(500), redis_url, sandbox)?,
        broken: Forgetful { loses },
    };
    let sessions = Sessions::builder(cache, store)
        .validation_timeout(Duration::from_secs(5))
        .slow_lookup_threshold(SOON)
        .ttl(TTL)
        .journal_interval(INTERVAL)
        .policy(policy);
    Ok(sessions.build()?)
}

/// How long one node served a session after its end.
#[derive(Debug)]
pub(crate) struct Lived {
    /// When the last valid validation *began*. The bounds apply to the beginning of a validation,
    /// therefore its duration on a busy machine does not count.
    pub(crate) valid_until: Option<Duration>,
    /// The result after the bound.
    pub(crate) answer: &'static str,
    /// Whether the node had not read the journal for D. If the test did not cut it off, the machine
    /// stalled, and the bound of a partitioned node applies.
    pub(crate) out_of_touch: bool,
}

impl Lived {
    pub(crate) fn is_within(&self, bound: Duration) -> bool {
        self.valid_until.is_none_or(|last| last <= bound)
    }
}

/// Validates until some time after the bound.
pub(crate) async fn lives_on(
    reader: &Sessions,
    created: &Created,
    ended: Instant,
    bound: Duration,
) -> Result<Lived, Failure> {
    let mut lived = Lived { valid_until: None, answer: "nothing", out_of_touch: false };
    wait::until("the bound to be over", bound + SOON, async || {
        let began = ended.elapsed();
        lived.out_of_touch |= reader.metrics().journal_age.is_none_or(|age| age > D);
        lived.answer = ask(reader, created).await;
        if lived.answer == "valid" {
            lived.valid_until = Some(began);
        }
        began > bound + BEYOND
    })
    .await?;
    Ok(lived)
}
