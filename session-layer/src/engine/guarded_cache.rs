//! The cache behind its guards: the breaker, the outer deadlines, and the diagnostics.
//!
//! Every call of a [`SessionCache`] is made here. The breaker stops look-ups only
//! (`engine/breaker.rs` has the reason). Fills and invalidations are also sent while it is open.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{Instrument as _, Span};

use crate::cache::{
    CacheIdentity, CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated, Lookup,
    NO_CACHE, SessionCache,
};
use crate::engine::breaker::{Breaker, BreakerState, LookupOutcome, Transition};
use crate::engine::deadline::{self, Interrupted};
use crate::engine::diagnostics::{Diagnostics, Operation};
use crate::engine::instruments::CacheCall;
use crate::engine::metrics::Counters;
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::tasks::Tasks;
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::lock::lock;
use crate::model::token::TokenDigest;

/// How many digests one command to the cache carries.
pub(crate) const COMMAND_BATCH: usize = 500;

/// Returns the digest that a probe of the breaker looks up. No token has it, so only leases of
/// probes are there. In a cluster, the digests of several probes are on different servers.
const fn probed(number: u8) -> TokenDigest {
    let mut bytes = [0; 32];
    bytes[31] = number;
    TokenDigest::from_bytes(bytes)
}

/// What a look-up found, in the order of its digests.
#[derive(Debug)]
pub(crate) struct LookedUp<L> {
    pub(crate) found: Vec<Lookup<L>>,
    /// When the cache had replied.
    pub(crate) at: Instant,
}

/// A cache, and what guards its calls.
#[derive(Debug)]
pub(crate) struct GuardedCache<C> {
    cache: C,
    breaker: Mutex<Breaker>,
    /// The number of the breaker's next probe.
    probes: AtomicU8,
    settings: Settings,
    tasks: Tasks,
    counters: Arc<Counters>,
    diagnostics: Arc<Diagnostics>,
}

impl<C: SessionCache> GuardedCache<C> {
    pub(crate) fn new(
        cache: C,
        settings: Settings,
        tasks: Tasks,
        counters: Arc<Counters>,
        diagnostics: Arc<Diagnostics>,
    ) -> Arc<Self> {
        let breaker = Mutex::new(Breaker::new());
        let probes = AtomicU8::new(0);
        Arc::new(Self { cache, breaker, probes, settings, tasks, counters, diagnostics })
    }

    /// Looks entries up, from `began`, which is now. While the breaker is open, every look-up fails
    /// at once.
    pub(crate) async fn look_up(
        self: &Arc<Self>,
        digests: &[TokenDigest],
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
        began: Instant,
    ) -> LookedUp<C::Lease> {
        let span = spans::look_up(digests.len());
        if self.breaker_state() != BreakerState::Closed {
            span.record("session_layer.result", "skipped");
            // The task that probes may have ended with the runtime that it ran on.
            self.probe_in_background();
            self.counters.skipped_by_breaker.add_one();
            let why = "it is not queried while the breaker is open";
            let found = failed(digests, CacheErrorKind::NotQueried, why);
            return LookedUp { found, at: began };
        }
        let looking_up = self.look_up_in_time(digests, verdict, began);
        let found = looking_up.instrument(span.clone()).await;
        let now = Instant::now();
        record(&span, &found);
        self.called(CacheCall::LookUp, first_error(&found));
        let (outcome, why) = self.outcome(now - began, &found);
        if lock(&self.breaker).ended(began, now, outcome) == Some(Transition::Opened) {
            tracing::warn!(
                %why,
                "the breaker opened: sessions are read from the store until the cache has recovered"
            );
            self.probe_in_background();
        }
        LookedUp { found, at: now }
    }

    /// Records a look-up's outcome: every validation is a hit, a miss or an error of the cache.
    /// Returns whether the cache failed.
    pub(crate) fn record_look_up(&self, found: &[Lookup<C::Lease>]) -> bool {
        self.diagnostics.looked_up(found);
        if first_error(found).is_some() {
            self.counters.errors.add_one();
            return true;
        }
        if are_hits(found) {
            self.counters.hits.add_one();
        } else {
            self.counters.misses.add_one();
        }
        false
    }

    /// Sets fences under these digests, as far as the cache accepts them.
    pub(crate) async fn fence(&self, digests: &[TokenDigest]) {
        for batch in digests.chunks(COMMAND_BATCH) {
            let fencing =
                deadline::of_cache(self.settings.call_deadline(), self.cache.fence(batch));
            let fenced = spans::within(spans::fence(batch.len()), fencing).await;
            self.called(CacheCall::Fence, fenced.as_ref().err());
            match fenced {
                Ok(()) => self.diagnostics.cache_succeeded(Operation::Lease),
                Err(error) => return self.diagnostics.cache_failed(Operation::Lease, &error),
            }
        }
    }

    /// Fills the cache with an entry, if its lease is still valid.
    pub(crate) async fn fill(&self, lease: C::Lease, entry: &Entry, lifetime: Duration) {
        let span = spans::fill();
        let filling = self.cache.fill(lease, entry, lifetime);
        let filling = deadline::of_cache(self.settings.call_deadline(), filling);
        let filled = spans::within(span.clone(), filling).await;
        self.called(CacheCall::Fill, filled.as_ref().err());
        match filled {
            Ok(filled) => {
                self.diagnostics.cache_succeeded(Operation::Fill);
                let (counter, result) = match filled {
                    Filled::Stored => (&self.counters.fills, "stored"),
                    Filled::Refused => (&self.counters.fills_refused, "refused"),
                };
                counter.add_one();
                span.record("session_layer.result", result);
            }
            Err(error) => self.diagnostics.cache_failed(Operation::Fill, &error),
        }
    }

    /// Divides these digests into parts whose invalidation may fail alone. They are one part if the
    /// cache does not divide them in time, or omits one.
    pub(crate) async fn parts(&self, digests: &[TokenDigest]) -> Vec<Vec<TokenDigest>> {
        let dividing = self.cache.parts(digests);
        match deadline::run(self.settings.call_deadline(), dividing).await {
            Ok(parts) if have_all(&parts, digests) => parts,
            _ => vec![digests.to_vec()],
        }
    }

    /// Invalidates one batch of entries. Returns `None` if the cache did not acknowledge it.
    pub(crate) async fn invalidate(&self, batch: &[TokenDigest]) -> Option<Invalidated> {
        let outcome = self.try_invalidate(batch).await;
        outcome
            .inspect_err(|error| self.diagnostics.cache_failed(Operation::Invalidate, error))
            .ok()
    }

    /// Invalidates one batch once more. The failure that came before was recorded, so another one
    /// is not.
    pub(crate) async fn invalidate_again(&self, batch: &[TokenDigest]) -> Option<Invalidated> {
        self.try_invalidate(batch).await.ok()
    }

    async fn try_invalidate(&self, batch: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        let invalidating = self.cache.invalidate(batch);
        let invalidating = deadline::of_cache(self.settings.call_deadline(), invalidating);
        let outcome = spans::within(spans::invalidate(batch.len()), invalidating).await;
        self.called(CacheCall::Invalidate, outcome.as_ref().err());
        outcome.inspect(|_| self.diagnostics.cache_succeeded(Operation::Invalidate))
    }

    fn called(&self, call: CacheCall, error: Option<&CacheError>) {
        self.counters.instruments.cache_called(call, error);
    }

    /// Returns whether there is a cache at all.
    pub(crate) fn is_present(&self) -> bool {
        self.cache.status().backend != NO_CACHE
    }

    /// Returns which cache this node serves entries from.
    pub(crate) fn identity(&self) -> CacheIdentity {
        self.cache.identity()
    }

    /// Returns what is known of the cache without querying it.
    pub(crate) fn status(&self) -> CacheStatus {
        self.cache.status()
    }

    /// Pings the cache, and sets and gets a key.
    pub(crate) async fn probe(&self) -> CacheProbe {
        self.cache.probe().await
    }

    /// Closes the connections.
    pub(crate) async fn close(&self) {
        self.cache.close().await;
    }

    pub(crate) fn breaker_state(&self) -> BreakerState {
        lock(&self.breaker).state()
    }

    /// Returns how often the breaker has opened.
    pub(crate) fn breaker_opened(&self) -> u64 {
        lock(&self.breaker).opened()
    }

    /// Looks entries up within half of the validation timeout. The other half is the store's.
    async fn look_up_in_time(
        &self,
        digests: &[TokenDigest],
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
        began: Instant,
    ) -> Vec<Lookup<C::Lease>> {
        let deadline = began + self.settings.validation_timeout / 2;
        match deadline::run_until(deadline, self.cache.get(digests, verdict)).await {
            Ok(found) => found,
            Err(Interrupted::Late) => failed(
                digests,
                CacheErrorKind::TimedOut,
                "it did not reply within half of the request's budget",
            ),
            Err(Interrupted::Panicked) => {
                failed(digests, CacheErrorKind::Protocol, "it panicked, see the log")
            }
        }
    }

    /// Returns what a look-up means for the breaker, and why it failed or was slow.
    fn outcome(&self, took: Duration, found: &[Lookup<C::Lease>]) -> (LookupOutcome, String) {
        let error = first_error(found);
        let threshold = self.settings.slow_lookup_threshold;
        let outcome = LookupOutcome::of(took, threshold, error.map(CacheError::kind));
        let why = match error {
            Some(error) => reason(error),
            None if outcome == LookupOutcome::Slow => {
                format!("most look-ups take longer than {threshold:?}")
            }
            None => String::new(),
        };
        (outcome, why)
    }

    /// Starts the task that probes until the breaker closes, unless there is one.
    fn probe_in_background(self: &Arc<Self>) {
        if !lock(&self.breaker).needs_prober() {
            return;
        }
        let prober = Prober(Arc::clone(self));
        self.tasks.spawn(async move {
            let cache = &prober.0;
            while let Some(due) = cache.next_probe() {
                let Some(()) = cache.tasks.or_end(sleep_until(due)).await else {
                    return;
                };
                cache.probe_breaker().instrument(spans::background("probe")).await;
            }
        });
    }

    fn next_probe(&self) -> Option<Instant> {
        lock(&self.breaker).next_probe(Instant::now())
    }

    /// Makes a look-up like a request's, which must be as fast as a request's.
    async fn probe_breaker(&self) {
        lock(&self.breaker).probe();
        let digest = probed(self.probes.fetch_add(1, Ordering::Relaxed));
        let began = Instant::now();
        let found = self.look_up_in_time(&[digest], &|_| EntryVerdict::Stale, began).await;
        let now = Instant::now();
        let (outcome, why) = self.outcome(now - began, &found);
        if outcome != LookupOutcome::Good {
            self.diagnostics.cache_probe_failed(why);
        }
        if lock(&self.breaker).probed(now, outcome) == Some(Transition::Closed) {
            self.counters.instruments.breaker_closed();
            tracing::info!("the breaker closed: the session cache is used again");
        }
    }
}

/// The task that probes. Its drop tells the breaker that the task has ended, also if it ended with
/// its runtime.
struct Prober<C: SessionCache>(Arc<GuardedCache<C>>);

impl<C: SessionCache> Drop for Prober<C> {
    fn drop(&mut self) {
        let mut breaker = lock(&self.0.breaker);
        // A closed breaker has released its prober already, and may have another one by now.
        if breaker.state() != BreakerState::Closed {
            breaker.prober_left();
        }
    }
}

fn first_error<L>(found: &[Lookup<L>]) -> Option<&CacheError> {
    found.iter().find_map(|lookup| match lookup {
        Lookup::Failed(error) => Some(error),
        _ => None,
    })
}

fn are_hits<L>(found: &[Lookup<L>]) -> bool {
    found.iter().all(|lookup| matches!(lookup, Lookup::Hit(_)))
}

/// Records the outcome of a look-up in its span.
fn record<L>(span: &Span, found: &[Lookup<L>]) {
    if span.is_disabled() {
        return;
    }
    let error = first_error(found);
    let result = match error {
        Some(_) => "error",
        None if are_hits(found) => "hit",
        None => "miss",
    };
    span.record("session_layer.result", result);
    if let Some(error) = error {
        spans::failed(span, error.kind().as_str());
    }
}

fn failed<L>(digests: &[TokenDigest], kind: CacheErrorKind, why: &str) -> Vec<Lookup<L>> {
    digests.iter().map(|_| Lookup::Failed(CacheError::new(kind, why))).collect()
}

/// Returns whether each digest is in one of the parts. A digest that a part omits would keep its
/// entry, although its invalidation counts as acknowledged.
fn have_all(parts: &[Vec<TokenDigest>], digests: &[TokenDigest]) -> bool {
    // One part is the usual case.
    if let [part] = parts
        && part == digests
    {
        return true;
    }
    let present: HashSet<&TokenDigest> = parts.iter().flatten().collect();
    digests.iter().all(|digest| present.contains(digest))
}

/// Returns the message of a failed look-up. An application's own cache may have given none.
fn reason(error: &CacheError) -> String {
    let message = error.to_string();
    if message.trim().is_empty() {
        return format!("the session cache gave no reason ({:?})", error.kind());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_omit_a_digest_are_noticed() {
        let [a, b, c] = ["a", "b", "c"].map(TokenDigest::of);
        assert!(have_all(&[vec![a, b, c]], &[a, b, c]));
        assert!(have_all(&[vec![c], vec![b, a]], &[a, b, c]));
        assert!(have_all(&[], &[]));
        assert!(!have_all(&[vec![a, b]], &[a, b, c]));
        assert!(!have_all(&[vec![a], vec![b]], &[a, b, c]));
        assert!(!have_all(&[], &[a]));
    }

    #[test]
    fn error_without_message_still_gives_a_reason() {
        let reason_of = |message| reason(&CacheError::new(CacheErrorKind::Protocol, message));
        assert_eq!(reason_of("it broke"), "it broke");
        assert!(reason_of(" ").contains("Protocol"), "{}", reason_of(" "));
    }
}
