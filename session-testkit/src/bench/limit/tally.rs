//! The latency accounting of one trial.

use std::time::Duration;

use serde::Serialize;

use crate::{
    history::nanos,
    workload::{Latencies, Latency},
};

/// The share of requests that may miss the bar is 1 in this many: the p99.
const ONE_IN: u64 = 100;

/// The requests of one trial so far.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    bar: Duration,
    due: u64,
    failed: u64,
    late: u64,
    latencies: Latencies,
}

/// The result of one trial.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trial {
    /// The rate of arrivals, in requests per second.
    pub(crate) rate: u32,
    /// The number of requests that arrived.
    pub(crate) due: u64,
    /// The number of them without a 200 response.
    pub(crate) failed: u64,
    /// The number of them whose 200 response exceeded the bar.
    pub(crate) late: u64,
    /// The latencies of the 200 responses since the intended arrivals, in microseconds.
    pub(crate) latency: Latency,
    /// Whether 99 % of the requests had a 200 response within the bar.
    pub(crate) passed: bool,
}

impl Tally {
    /// Creates a tally of no requests.
    pub(super) fn new(bar: Duration) -> Self {
        Self { bar, due: 0, failed: 0, late: 0, latencies: Latencies::default() }
    }

    /// Adds a request that arrived. Its response follows.
    pub(super) fn arrived(&mut self) {
        self.due += 1;
    }

    /// Adds the response to a request: the time since its intended arrival, or `None` if it was not
    /// a 200 response.
    pub(super) fn answered(&mut self, since_intended: Option<Duration>) {
        let Some(took) = since_intended else {
            self.failed += 1;
            return;
        };
        self.late += u64::from(took > self.bar);
        self.latencies.add(nanos(took));
    }

    /// Returns whether the trial must fail, although some of the `all` requests have not arrived.
    pub(super) fn is_lost(&self, all: u64) -> bool {
        (self.failed + self.late) * ONE_IN > all
    }

    /// Returns the result, once every request has its response.
    pub(super) fn trial(&self, rate: u32) -> Trial {
        let Self { due, failed, late, .. } = *self;
        let passed = due > 0 && !self.is_lost(due);
        Trial { rate, due, failed, late, latency: self.latencies.sum(), passed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR: Duration = Duration::from_millis(30);

    fn tally(good: u32, late: u32, failed: u32) -> Tally {
        let mut tally = Tally::new(BAR);
        let late = (0..late).map(|_| Some(BAR + Duration::from_nanos(1)));
        let failed = (0..failed).map(|_| None);
        for took in (0..good).map(|_| Some(BAR)).chain(late).chain(failed) {
            tally.arrived();
            tally.answered(took);
        }
        tally
    }

    #[test]
    fn one_in_a_hundred_may_be_late_or_fail() {
        for (good, late, failed, passed) in [
            (100, 0, 0, true),
            (99, 1, 0, true),
            (99, 0, 1, true),
            (98, 1, 1, false),
            (98, 2, 0, false),
            (0, 0, 0, false),
        ] {
            let trial = tally(good, late, failed).trial(7);
            assert_eq!(trial.passed, passed, "{trial:?}");
            assert_eq!(
                (trial.due, trial.latency.count),
                (u64::from(good + late + failed), u64::from(good + late))
            );
        }
    }

    #[test]
    fn trial_is_lost_when_no_later_request_can_save_it() {
        assert!(!tally(0, 1, 1).is_lost(200));
        assert!(tally(0, 2, 1).is_lost(200));
    }
}
