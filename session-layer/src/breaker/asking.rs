//! Look-ups through the breaker, and the probes that close it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Breaker, BreakerState, Change, Outcome};
use crate::cache::{Belief, Entry, Lookup, SessionCache};
use crate::deadline::{self, Broken};
use crate::driver::Driver;
use crate::error::{CacheError, CacheErrorKind};
use crate::store::SessionStore;
use crate::token::TokenDigest;
use crate::troubles::{Cause, Of};

/// What probes look up: the digest of no token, with nothing under it but their own leases.
const PROBED: TokenDigest = TokenDigest::from_bytes([0; 32]);

/// The breaker, shared.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<Breaker>);

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Breaker::new())))
    }

    /// Its state, and how often it has opened.
    pub(crate) fn status(&self) -> (BreakerState, u64) {
        let breaker = self.lock();
        (breaker.state(), breaker.opened())
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says so when the prober is gone, also where it ends with its runtime.
struct Prober(Arc<Gate>);

impl Drop for Prober {
    fn drop(&mut self) {
        let mut breaker = self.0.lock();
        // The one that closed it has left already; by now there may be another.
        if breaker.state() != BreakerState::Closed {
            breaker.prober_left();
        }
    }
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// What the cache says of these, where it is to be asked; else they have failed, at once.
    pub(crate) async fn look_up_cached(
        self: &Arc<Self>,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<C::Lease>> {
        let is_open = {
            let mut breaker = self.gate.lock();
            let is_open = breaker.state() != BreakerState::Closed;
            // The prober may have ended with the runtime it ran on.
            let alone = breaker.needs_prober();
            drop(breaker);
            if alone {
                self.start_probing();
            }
            is_open
        };
        if is_open {
            self.counters.not_asked.add_one();
            return failed(
                digests,
                CacheErrorKind::NotAsked,
                "it is not asked at present (the breaker is open)",
            );
        }
        let began = Instant::now();
        let found = self.ask_in_time(digests, judge).await;
        let now = Instant::now();
        let (outcome, why) = self.judged(now - began, &found);
        let changed = self.gate.lock().ended(began, now, outcome);
        if changed == Some(Change::Opened) {
            tracing::warn!(
                %why,
                "the session cache is not asked any more (the breaker opened): sessions are read from the store"
            );
            if self.gate.lock().needs_prober() {
                self.start_probing();
            }
        }
        found
    }

    /// A cache bounds itself in time. Where one does not, half of a validation's budget does: the other
    /// half is the store's.
    async fn ask_in_time(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<C::Lease>> {
        let longest = self.settings.budget / 2;
        match deadline::within(longest, self.cache.get(digests, judge)).await {
            Ok(found) => found,
            Err(Broken::Late) => failed(
                digests,
                CacheErrorKind::TimedOut,
                "it did not answer within half of the request's budget",
            ),
            Err(Broken::Panicked) => failed(
                digests,
                CacheErrorKind::Protocol,
                "it panicked; the log says why",
            ),
        }
    }

    fn judged(&self, took: Duration, found: &[Lookup<C::Lease>]) -> (Outcome, String) {
        let failure = found.iter().find_map(|lookup| match lookup {
            Lookup::Failed(error) => Some(error),
            _ => None,
        });
        let slow_call = self.settings.slow_call;
        let outcome = Outcome::of(took, slow_call, failure.map(CacheError::kind));
        let why = match failure {
            Some(error) => error.to_string(),
            None if outcome == Outcome::Slow => {
                format!("most look-ups take longer than {slow_call:?}")
            }
            None => String::new(),
        };
        (outcome, why)
    }

    fn start_probing(self: &Arc<Self>) {
        let prober = Prober(Arc::clone(&self.gate));
        let probing = Self::probe_until_closed(Arc::downgrade(self), prober, self.stop.clone());
        self.tasks.spawn(probing);
    }

    /// Probes until the breaker closes. It does not keep the driver alive in its pauses.
    async fn probe_until_closed(driver: Weak<Self>, prober: Prober, stop: CancellationToken) {
        loop {
            let due = prober.0.lock().next_probe(Instant::now());
            let Some(due) = due else { return };
            tokio::select! {
                () = sleep_until(due) => {}
                () = stop.cancelled() => return,
            }
            let Some(driver) = driver.upgrade() else {
                return;
            };
            driver.probe_once(&prober.0).await;
        }
    }

    /// A look-up as a request's would be, and as quick as that has to be.
    async fn probe_once(&self, gate: &Gate) {
        gate.lock().probe();
        let began = Instant::now();
        let found = self.ask_in_time(&[PROBED], &|_| Belief::Dead).await;
        let now = Instant::now();
        let (outcome, why) = self.judged(now - began, &found);
        if outcome != Outcome::Good {
            // What keeps the breaker open is told for as long as it does.
            self.troubles.note(now, Of::Cache, Cause::Away, why);
        }
        if gate.lock().probed(now, outcome) == Some(Change::Closed) {
            tracing::info!("the session cache is asked again (the breaker closed)");
        }
    }
}

fn failed<L>(digests: &[TokenDigest], kind: CacheErrorKind, why: &str) -> Vec<Lookup<L>> {
    let failed = |_| Lookup::Failed(CacheError::new(kind, why));
    digests.iter().map(failed).collect()
}
