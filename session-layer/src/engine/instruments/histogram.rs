//! A histogram of durations.
//!
//! A recorder's own histogram would cost each validation a call, a clock read and, in that of
//! Prometheus, memory until the next scrape. This one costs two additions. It keeps the count and
//! the sum of each bucket, so a recorder gets exact counts and sums. The values of a bucket all
//! become their mean.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets in seconds, from 1 µs to 10 s. A near hit takes about 1 µs, a
/// hit 0.1 to 1 ms, a read of Postgres 1 to 25 ms, and a validation ends after 250 ms by default.
///
/// Pass them to an exporter that needs bounds. Durations are exact to a bucket.
pub const LATENCY_BUCKETS: [f64; 20] = [
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    2.5,
    10.0,
];

/// The same bounds in nanoseconds.
const BOUNDS: [u64; LATENCY_BUCKETS.len()] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// One bucket per bound, and one for all that is longer.
const BUCKETS: usize = BOUNDS.len() + 1;

/// A histogram that all tasks share.
#[derive(Debug, Default)]
pub(crate) struct Histogram([Bucket; BUCKETS]);

/// The count and the sum are in one cache line, so that one record moves one line.
#[derive(Debug, Default)]
struct Bucket {
    count: AtomicU64,
    nanos: AtomicU64,
}

/// The state of a histogram: count and nanoseconds of each bucket.
pub(crate) type Snapshot = [(u64, u64); BUCKETS];

impl Histogram {
    pub(crate) fn record(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let Bucket { count, nanos: sum } = &self.0[bucket_of(nanos)];
        sum.fetch_add(nanos, Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        std::array::from_fn(|at| {
            let Bucket { count, nanos } = &self.0[at];
            (count.load(Ordering::Relaxed), nanos.load(Ordering::Relaxed))
        })
    }

    /// Returns the number of durations.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.count.load(Ordering::Relaxed)).sum()
    }
}

fn bucket_of(nanos: u64) -> usize {
    BOUNDS.partition_point(|bound| *bound < nanos)
}

/// Returns what was recorded between two snapshots: for each bucket the mean in seconds, and how
/// often it counts.
pub(crate) fn recorded_between(
    before: &Snapshot,
    after: &Snapshot,
) -> impl Iterator<Item = (f64, u64)> {
    before.iter().zip(after).enumerate().filter_map(|(at, (before, after))| {
        let count = after.0.saturating_sub(before.0);
        if count == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a duration are fewer")]
        let mean = after.1.saturating_sub(before.1) as f64 / count as f64 / 1e9;
        // A record in progress has changed only one of the two.
        let least = if at == 0 { 0.0 } else { LATENCY_BUCKETS[at - 1].next_up() };
        let most = LATENCY_BUCKETS.get(at).copied().unwrap_or(f64::MAX);
        Some((mean.clamp(least, most), count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_have_the_same_bounds() {
        for (seconds, nanos) in LATENCY_BUCKETS.iter().zip(BOUNDS) {
            assert!((seconds * 1e9 - nanos as f64).abs() < 1e-3, "{seconds} {nanos}");
        }
    }

    #[test]
    fn bound_belongs_to_its_bucket() {
        assert_eq!(bucket_of(0), 0);
        for (at, bound) in BOUNDS.into_iter().enumerate() {
            assert_eq!(bucket_of(bound), at);
            assert_eq!(bucket_of(bound + 1), at + 1);
        }
    }

    #[test]
    fn counts_and_sums_are_exact_between_snapshots() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(7));
        let before = histogram.snapshot();
        for micros in [300, 400, 80, 20_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let recorded: Vec<_> = recorded_between(&before, &histogram.snapshot()).collect();
        assert_eq!(recorded, [(0.000_08, 1), (0.000_35, 2), (20.0, 1)]);
        assert_eq!(histogram.count(), 5);
    }

    #[test]
    fn half_recorded_duration_stays_in_its_bucket() {
        let (before, mut after) = ([(0, 0); BUCKETS], [(0, 0); BUCKETS]);
        after[9] = (2, 600_000);
        let (mean, count) = recorded_between(&before, &after).next().unwrap();
        assert_eq!(count, 2);
        assert!(mean > 0.000_5 && mean <= 0.001, "{mean}");
    }
}
