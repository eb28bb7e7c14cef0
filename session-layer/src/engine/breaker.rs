//! The breaker: whether requests look sessions up in the cache.
//!
//! The cache's own links decide which connection is good. The breaker decides whether a look-up is
//! worth its time. It judges by the outcomes of the last look-ups, whatever the cause of a bad one.
//! While the breaker is *open*, no request waits for the cache, and sessions are read from the
//! store. While it is *half-open*, it makes look-ups of its own (*probes*) to detect that the cache
//! has recovered. No request needs to try.
//!
//! The breaker stops look-ups only. Changes are still sent to the cache, because other nodes
//! may be querying it. A cache that is merely slow still acknowledges them, which lets a revocation
//! return `Propagated`. Fills are sent too, because they belong to look-ups that succeeded.
//!
//! [`BreakerState`] states when the breaker opens and closes. Further reasons for its numbers:
//!
//! - Slow is over 20 ms. A healthy validation takes up to 5 ms, and the store's own reply up to
//!   25 ms. Over 20 ms, the look-up costs more than it saves.
//! - The window is 100 ms. The first calls fail after 50 ms, and are soon the majority of it. With
//!   ten calls, one stall of an idle service does not open the breaker.
//! - A missing connection needs no statistics.
//! - With a probe every 100 ms, hits return long before 2 s have passed since the cache recovered.
//!
//! The state machine is a function of its arguments, the time included. `engine/guarded_cache.rs`
//! feeds it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::error::CacheErrorKind;

/// The duration above which a look-up in the cache is slow, unless set otherwise: 20 ms.
pub const DEFAULT_SLOW_LOOKUP_THRESHOLD: Duration = Duration::from_millis(20);

/// The span of the calls that are judged.
const WINDOW: Duration = Duration::from_millis(100);
/// The minimum number of calls that are judged, even if they span more than [`WINDOW`].
const MIN_CALLS: usize = 10;
/// The age above which a call is never judged.
const MAX_WINDOW: Duration = Duration::from_secs(10);
/// The maximum number of calls that are judged. Above 10,000 calls/s the last ones suffice.
const MAX_CALLS: usize = 1_000;
/// The time from one bad probe to the next probe.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// How many good probes in a row close the breaker.
const GOOD_PROBES: u32 = 5;

/// The state of the breaker, which decides whether requests query the cache.
///
/// The breaker opens when more than half of the recent look-ups failed or were slow. Below that,
/// look-ups still save the store more than half of its load. The recent look-ups are those of the
/// last 100 ms, or the last 10 if those took longer. *Slow* is over 20 ms
/// ([`DEFAULT_SLOW_LOOKUP_THRESHOLD`]). The breaker opens at once if there is no connection. At
/// 100 requests/s or more it is therefore open within 200 ms of a fault.
///
/// While the breaker is open, it makes a look-up of its own every 100 ms. Five good ones in a row
/// close it. A cache that fails half of the time gives such a series once in 32 tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BreakerState {
    /// Requests query the cache.
    Closed,
    /// Requests do not query the cache: too many look-ups failed or were slow.
    Open,
    /// Requests do not query the cache. Probes check whether it has recovered.
    HalfOpen,
}

/// The outcome of one look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupOutcome {
    Good,
    /// The cache replied too late to be useful.
    Slow,
    Failed,
    /// There was no connection.
    Unreachable,
}

impl LookupOutcome {
    /// Returns the outcome of a look-up with this duration, and with `failure` if it failed.
    pub(super) fn of(
        took: Duration,
        slow_lookup_threshold: Duration,
        failure: Option<CacheErrorKind>,
    ) -> Self {
        match failure {
            Some(CacheErrorKind::Unreachable) => Self::Unreachable,
            // It shows nothing about the other parts, and costs no time if it fails at once.
            None | Some(CacheErrorKind::PartUnavailable) => {
                if took > slow_lookup_threshold {
                    Self::Slow
                } else {
                    Self::Good
                }
            }
            Some(_) => Self::Failed,
        }
    }
}

/// A change of the state that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    Opened,
    Closed,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Breaker {
    state: BreakerPhase,
    opened: u64,
    /// Whether a task makes probes.
    has_prober: bool,
}

#[derive(Debug)]
enum BreakerPhase {
    /// `since` is when it closed. Calls that began before then are ignored.
    Closed { since: Option<Instant>, window: Window },
    /// No probe is made before `until`.
    Open { until: Instant },
    /// `good` probes in a row have succeeded.
    HalfOpen { good: u32 },
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            state: BreakerPhase::Closed { since: None, window: Window::default() },
            opened: 0,
            has_prober: false,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            BreakerPhase::Closed { .. } => BreakerState::Closed,
            BreakerPhase::Open { .. } => BreakerState::Open,
            BreakerPhase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Returns how often the breaker has opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Records the outcome of a request's look-up that began at `began`. Returns
    /// [`Transition::Opened`] if the breaker opens with it.
    pub(super) fn ended(
        &mut self,
        began: Instant,
        now: Instant,
        outcome: LookupOutcome,
    ) -> Option<Transition> {
        let BreakerPhase::Closed { since, window } = &mut self.state else {
            return None;
        };
        if since.is_some_and(|since| began < since) {
            return None;
        }
        window.add(now, outcome != LookupOutcome::Good);
        let opens = match outcome {
            // An older good call may have left the window. Only a bad call opens the breaker,
            // because the log names that call's error as the reason.
            LookupOutcome::Good => false,
            LookupOutcome::Slow | LookupOutcome::Failed => window.is_bad(),
            LookupOutcome::Unreachable => true,
        };
        if !opens {
            return None;
        }
        self.state = BreakerPhase::Open { until: now + PROBE_INTERVAL };
        self.opened += 1;
        Some(Transition::Opened)
    }

    /// Returns whether the caller must start a prober: the breaker is not closed and has no prober.
    /// From then on it has one.
    #[must_use]
    pub(super) fn needs_prober(&mut self) -> bool {
        let open = !matches!(self.state, BreakerPhase::Closed { .. });
        open && !std::mem::replace(&mut self.has_prober, true)
    }

    /// Records that the prober has ended without closing the breaker.
    pub(super) fn prober_left(&mut self) {
        self.has_prober = false;
        if matches!(self.state, BreakerPhase::HalfOpen { .. }) {
            self.state = BreakerPhase::HalfOpen { good: 0 };
        }
    }

    /// Returns when the next probe is due. `None`: the breaker is closed.
    pub(super) fn next_probe(&self, now: Instant) -> Option<Instant> {
        match self.state {
            BreakerPhase::Closed { .. } => None,
            BreakerPhase::Open { until } => Some(until),
            BreakerPhase::HalfOpen { .. } => Some(now),
        }
    }

    /// Records that a probe begins.
    pub(super) fn probe(&mut self) {
        if matches!(self.state, BreakerPhase::Open { .. }) {
            self.state = BreakerPhase::HalfOpen { good: 0 };
        }
    }

    /// Records the outcome of a probe. Returns [`Transition::Closed`] if the breaker closes with
    /// it.
    pub(super) fn probed(&mut self, now: Instant, outcome: LookupOutcome) -> Option<Transition> {
        let BreakerPhase::HalfOpen { good } = &mut self.state else {
            return None;
        };
        if outcome != LookupOutcome::Good {
            self.state = BreakerPhase::Open { until: now + PROBE_INTERVAL };
            return None;
        }
        *good += 1;
        if *good < GOOD_PROBES {
            return None;
        }
        self.state = BreakerPhase::Closed { since: Some(now), window: Window::default() };
        self.has_prober = false;
        Some(Transition::Closed)
    }
}

/// The outcomes of the last look-ups.
#[derive(Debug, Default)]
struct Window {
    /// The end of each call, and whether the call was bad.
    calls: VecDeque<(Instant, bool)>,
    bad: usize,
}

impl Window {
    fn add(&mut self, now: Instant, bad: bool) {
        self.calls.push_back((now, bad));
        self.bad += usize::from(bad);
        while let Some((ended, bad)) = self.calls.front().copied() {
            let age = now.saturating_duration_since(ended);
            let many = self.calls.len();
            if !(many > MAX_CALLS || age > MAX_WINDOW || (many > MIN_CALLS && age > WINDOW)) {
                return;
            }
            self.calls.pop_front();
            self.bad -= usize::from(bad);
        }
    }

    fn is_bad(&self) -> bool {
        self.calls.len() >= MIN_CALLS && self.bad * 2 > self.calls.len()
    }
}

#[cfg(test)]
mod tests;
