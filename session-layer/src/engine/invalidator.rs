//! Invalidations: entries are removed from the cache, and again until the cache has acknowledged
//! it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument as _;

use crate::cache::{Invalidated, SessionCache};
use crate::engine::breaker::BreakerState;
use crate::engine::guarded_cache::{COMMAND_BATCH, GuardedCache};
use crate::engine::near_cache::NearCache;
use crate::engine::pending_invalidations::PendingInvalidations;
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::tasks::Tasks;
use crate::model::token::TokenDigest;

/// How often an invalidation that was not acknowledged is repeated.
const REPEAT_UNLINK_EVERY: Duration = Duration::from_millis(500);

/// How long a response "invalid" waits for its invalidation if the breaker is not closed or the
/// look-up failed: 10 ms, twice what a healthy validation may take. A cache that has recovered
/// replies sooner. A cache that has not would delay every "invalid" by its whole deadline.
const WAIT_IN_DOUBT: Duration = Duration::from_millis(10);

/// The limit of unknown tokens whose invalidation is repeated: about 1 MiB. A flood of tokens that
/// never existed, while the cache is down, must not fill the memory.
const MOST_UNKNOWN: usize = 10_000;

/// The reason why a token is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Its session has ended, so there may be an entry.
    Ended,
    /// It has no session. There is an entry only if direct SQL has deleted the session.
    Unknown,
}

/// The remover of entries from the cache, which repeats what the cache did not acknowledge.
#[derive(Debug)]
pub(crate) struct Invalidator<C> {
    pub(crate) cache: Arc<GuardedCache<C>>,
    pub(crate) near: Option<Arc<NearCache>>,
    pub(crate) pending: Arc<PendingInvalidations>,
    pub(crate) settings: Settings,
    pub(crate) tasks: Tasks,
}

impl<C: SessionCache> Invalidator<C> {
    /// Invalidates entries, a batch at a time: a user may have had thousands of sessions, and each
    /// batch must end within the cache's deadline. Returns the least that any batch proves. `None`:
    /// the cache did not acknowledge a batch, and the rest is repeated in the background.
    ///
    /// The near cache drops them last. A look-up that begins after the drop finds them neither in
    /// the shared cache nor, while they are pending, fresh.
    pub(crate) async fn invalidate(
        self: &Arc<Self>,
        digests: &[TokenDigest],
    ) -> Option<Invalidated> {
        let removed = self.invalidate_shared(digests).await;
        self.drop_near(digests);
        removed
    }

    fn drop_near(&self, digests: &[TokenDigest]) {
        if let Some(near) = &self.near {
            near.drop_entries(digests);
        }
    }

    async fn invalidate_shared(self: &Arc<Self>, digests: &[TokenDigest]) -> Option<Invalidated> {
        let mut least = Some(Invalidated::Everywhere);
        let mut left = digests;
        while !left.is_empty() {
            let (batch, rest) = left.split_at(left.len().min(COMMAND_BATCH));
            left = rest;
            let parts = self.cache.parts(batch).await;
            let done = join_all(parts.iter().map(|part| self.cache.invalidate(part))).await;
            // A server of a cluster that is down delays the invalidations of no other.
            if done.iter().all(Option::is_none) {
                self.repeat_later(&digests[digests.len() - batch.len() - rest.len()..]);
                return None;
            }
            for (part, done) in parts.iter().zip(done) {
                match done {
                    Some(Invalidated::Everywhere) => {}
                    Some(less) => least = least.map(|_| less),
                    None => {
                        self.repeat_later(part);
                        least = None;
                    }
                }
            }
        }
        least
    }

    /// Invalidates entries in the background, so that a slow cache does not delay the caller.
    pub(crate) fn invalidate_in_background(self: &Arc<Self>, digests: Vec<TokenDigest>) {
        if digests.is_empty() {
            return;
        }
        let invalidator = Arc::clone(self);
        let span = spans::background("invalidate");
        self.tasks.spawn(async move {
            let _ = invalidator.invalidate(&digests).instrument(span).await;
        });
    }

    /// Invalidates the entry of an invalid token before the caller responds "invalid".
    ///
    /// After an "invalid" no node may respond "valid". An entry that outlived its session must be
    /// gone before, and so must the lease of a reader that read the row while it was there. (This
    /// also holds if the caller has a lease. It may have been lost, and another reader's entry may
    /// be in its place.)
    ///
    /// The caller does not wait for long. An entry that was not removed by then is rejected by this
    /// node, and its invalidation is repeated.
    pub(crate) async fn before_invalid(
        self: &Arc<Self>,
        digest: TokenDigest,
        why: Invalid,
        cache_failed: bool,
    ) {
        let cache = Arc::clone(&self.cache);
        // It continues after the wait. Cancelling it would cost the cache a connection.
        let removal = async move { cache.invalidate(&[digest]).await.is_some() };
        let removal = self.tasks.spawn(spans::in_current(removal));
        let wait = if self.cache.breaker_state() == BreakerState::Closed && !cache_failed {
            self.settings.validation_timeout / 2
        } else {
            WAIT_IN_DOUBT
        };
        let removed = matches!(timeout(wait, removal).await, Ok(Ok(true)));
        if !removed && (why == Invalid::Ended || self.pending.len() < MOST_UNKNOWN) {
            self.repeat_later(&[digest]);
        }
        self.drop_near(&[digest]);
    }

    /// Repeats an invalidation until the cache acknowledges it. Until then this node rejects the
    /// entries.
    fn repeat_later(self: &Arc<Self>, digests: &[TokenDigest]) {
        let life = self.settings.longest_entry_life();
        if self.pending.add(digests, Instant::now(), life) {
            let invalidator = Arc::clone(self);
            self.tasks.spawn(async move { invalidator.repeat(life).await });
        }
    }

    /// Repeats until the cache has acknowledged everything, or every entry has expired.
    async fn repeat(&self, life: Duration) -> Option<()> {
        let mut failed = 0;
        loop {
            self.tasks.or_shutdown(sleep(REPEAT_UNLINK_EVERY)).await?;
            // Batch after batch while the cache replies. After a failure the task waits again, and
            // continues behind the batch that failed.
            loop {
                let began = Instant::now();
                let batch = self.pending.next_batch(began, failed, COMMAND_BATCH)?;
                let parts = self.cache.parts(&batch).await;
                let again = parts.iter().map(|part| self.cache.invalidate_again(part));
                let done = join_all(again).instrument(spans::background("invalidate")).await;
                if done.iter().all(Option::is_none) {
                    failed += batch.len();
                    break;
                }
                for (part, _) in parts.iter().zip(done).filter(|(_, done)| done.is_some()) {
                    self.pending.acknowledged(part, began, life);
                }
            }
        }
    }
}
