//! Nodes whose Redis acknowledges UNLINKs and fences and loses them, as by a failover right after:
//! what a revoked session still lives by then, and by what bound it ends.

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
use crate::support::{SOON, ask, cache};

/// So often the journal is read by these nodes; D is four of it.
const INTERVAL: Duration = Duration::from_millis(250);
pub(crate) const D: Duration = Duration::from_secs(1);
/// Short, so that `at_most` can be waited for; long enough for a copy to outlive D on a busy
/// machine.
const TTL: Duration = Duration::from_secs(6);
/// A copy that nobody removes: the TTL, and what a lease may take.
pub(crate) const AT_MOST: Duration = Duration::from_secs(8);
/// How long after a bound is over it is still looked at.
const BEYOND: Duration = Duration::from_millis(300);

/// How a Redis is broken that acknowledges UNLINKs and loses them, for as long as it is told to.
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
    /// What is lost this way may come back, so it is `Here` only.
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

/// Migrated, and with room in every deadline: a login on a busy machine must not fail by them.
pub(crate) async fn store_on(
    database_url: &str,
    sandbox: &Sandbox,
) -> Result<PostgresStore, Failure> {
    let store = PostgresStore::builder(database_url)
        .schema(sandbox.schema())
        .read_deadline(SOON)
        .change_deadline(SOON)
        .build()?;
    store.migrate().await?;
    Ok(store)
}

/// A node that loses its removals while `loses` says so. The cache is not given up for being slow.
pub(crate) fn node(
    redis_url: &str,
    store: PostgresStore,
    sandbox: &Sandbox,
    policy: PartitionPolicy,
    loses: &Arc<AtomicBool>,
) -> Result<Sessions, Failure> {
    let loses = Arc::clone(loses);
    let cache = BrokenCache { cache: cache(redis_url, sandbox)?, broken: Forgetful { loses } };
    let sessions = Sessions::builder(cache, store)
        .validation_timeout(Duration::from_secs(5))
        .slow_lookup_threshold(SOON)
        .ttl(TTL)
        .journal_interval(INTERVAL)
        .policy(policy);
    Ok(sessions.build()?)
}

/// How a session that has ended went on, on one node.
#[derive(Debug)]
pub(crate) struct Lived {
    /// When the last validation *began* that was valid. The bounds are about beginnings: how long
    /// an answer takes on a busy machine does not matter to them, so nothing has to be added for
    /// it.
    pub(crate) valid_until: Option<Duration>,
    /// What was answered once the bound was over.
    pub(crate) answer: &'static str,
    /// The node had not read the journal for D. Where nobody cut it off, the machine stalled: then
    /// it was not in touch with Postgres, and the bound for that is another.
    pub(crate) out_of_touch: bool,
}

impl Lived {
    pub(crate) fn is_within(&self, bound: Duration) -> bool {
        self.valid_until.is_none_or(|last| last <= bound)
    }
}

/// Asks again and again, until some time after the bound: what is over has to stay over.
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
