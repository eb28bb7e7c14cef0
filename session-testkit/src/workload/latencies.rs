//! Latency histograms and their summaries.

use hdrhistogram::Histogram;

use super::Latency;
use crate::history::Nanos;

const MICRO: Nanos = 1_000;

/// An HDR histogram of microseconds with two digits, about 10 KB.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u32>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new(2);
        Self(histogram.unwrap_or_else(|_| unreachable!("two digits are allowed")))
    }
}

impl Latencies {
    pub(crate) fn add(&mut self, span: Nanos) {
        // The histogram resizes itself, so no value is out of range. `saturating_record` does not.
        let recorded = self.0.record(span / MICRO);
        debug_assert!(recorded.is_ok(), "{span} ns");
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let merged = self.0.add(&other.0);
        debug_assert!(merged.is_ok(), "it resizes itself");
    }

    pub(crate) fn sum(&self) -> Latency {
        if self.0.is_empty() {
            return Latency::default();
        }
        Latency {
            count: self.0.len(),
            mean_us: self.0.mean(),
            p50_us: self.0.value_at_quantile(0.5),
            p95_us: self.0.value_at_quantile(0.95),
            p99_us: self.0.value_at_quantile(0.99),
            p999_us: self.0.value_at_quantile(0.999),
            max_us: self.0.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_values_count_like_recorded_ones() {
        let (mut all, mut odd) = (Latencies::default(), Latencies::default());
        for micros in 1..=100 {
            let into = if micros % 2 == 0 { &mut all } else { &mut odd };
            into.add(micros * MICRO);
        }
        all.merge(&odd);
        let sum = all.sum();
        assert_eq!(
            (sum.count, sum.p50_us, sum.p95_us, sum.p99_us, sum.max_us),
            (100, 50, 95, 99, 100)
        );
        assert!((sum.mean_us - 50.5).abs() < 0.001, "{sum:?}");
    }
}
