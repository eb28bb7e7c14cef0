//! Outages of a server. Each has one log event when it begins and one when it ends, however many
//! requests fail or succeed in between.
//!
//! Every decision is a function of its arguments, the time included.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::lock::lock;

/// The time without a failed call after which a successful call ends the outage.
const OUTAGE_OVER_AFTER: Duration = Duration::from_secs(1);

/// The time without a failed call after which this node probes whether the outage is over.
///
/// With a warm cache no request reaches the server. Without the probe, the log would never record
/// the recovery. A shorter time would be wrong, because the probe is an easier call than a
/// request's. It may succeed during the outage.
const PROBED_AFTER: Duration = Duration::from_secs(10);

/// The current outage, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// The time of the last failure. `None`: there is no outage.
    last_failure: Mutex<Option<Instant>>,
    /// Whether there is an outage. Successful calls read this and acquire no lock.
    is_on: AtomicBool,
}

impl Outage {
    /// Records a failed call. Returns whether the outage begins with it.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut last = lock(&self.last_failure);
        self.is_on.store(true, Ordering::Relaxed);
        last.replace(now).is_none()
    }

    /// Records a successful call. Returns whether the outage ends with it.
    pub(crate) fn succeeded(&self, now: Instant) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut last = lock(&self.last_failure);
        let over = last.is_some_and(|last| elapsed(last, now) >= OUTAGE_OVER_AFTER);
        if over {
            *last = None;
            self.is_on.store(false, Ordering::Relaxed);
        }
        over
    }

    /// Returns whether there is an outage.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Returns whether there is an outage that may be over, because no call has failed for a while.
    pub(crate) fn may_be_over(&self, now: Instant) -> bool {
        lock(&self.last_failure).is_some_and(|last| elapsed(last, now) >= PROBED_AFTER)
    }
}

/// Returns the time from `since` to `now`, or zero.
fn elapsed(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_begins_once_and_ends_once() {
        let start = Instant::now();
        let outage = Outage::default();
        assert!(!outage.succeeded(start), "there is no outage");
        assert!(outage.failed(start));
        // Some calls succeed and some fail.
        for ms in (0..5_000).step_by(500) {
            let now = start + Duration::from_millis(ms);
            assert!(!outage.failed(now) && !outage.succeeded(now));
        }
        let over = start + Duration::from_millis(5_500);
        assert!(outage.succeeded(over) && !outage.succeeded(over));
        assert!(!outage.may_be_over(over + PROBED_AFTER), "there is no outage");
        assert!(outage.failed(over), "the next outage");
        let nearly = over + PROBED_AFTER - Duration::from_millis(1);
        assert!(!outage.may_be_over(nearly) && outage.may_be_over(over + PROBED_AFTER));
    }
}
