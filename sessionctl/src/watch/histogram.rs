//! A histogram with the cumulative buckets of Prometheus, and its quantiles.

/// Observations by their upper bounds. A bucket counts those of the buckets below it as well.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// In the order of their bounds.
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    bound: f64,
    count: f64,
}

impl Histogram {
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Adds a bucket of one series. Equal bounds of several series add up. A bound or count that no
    /// histogram has is ignored.
    pub(super) fn add(&mut self, bound: f64, count: f64) {
        if bound.is_nan() || !count.is_finite() || count < 0.0 {
            return;
        }
        let at = self.buckets.partition_point(|bucket| bucket.bound < bound);
        match self.buckets.get_mut(at).filter(|bucket| bucket.bound == bound) {
            Some(bucket) => bucket.count += count,
            None => self.buckets.insert(at, Bucket { bound, count }),
        }
    }

    /// Returns what was observed since `earlier`, or `None` if a counter has fallen since: the
    /// process has restarted.
    pub(super) fn since(&self, earlier: &Self) -> Option<Self> {
        let mut buckets = self.buckets.clone();
        for before in &earlier.buckets {
            let bucket = buckets.iter_mut().find(|bucket| bucket.bound == before.bound)?;
            bucket.count -= before.count;
            if bucket.count < 0.0 {
                return None;
            }
        }
        Some(Self { buckets })
    }

    /// Returns the quantile `q`, from 0 to 1, as `histogram_quantile` of Prometheus does. It
    /// assumes that the observations of a bucket are spread evenly. For one beyond the highest
    /// finite bound it returns that bound. `None`: there are no observations, or no bucket `+Inf`.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let buckets = self.rising();
        let (last, finite) = buckets.split_last()?;
        if last.bound != f64::INFINITY || last.count <= 0.0 {
            return None;
        }
        let highest = finite.last()?;
        let rank = q * last.count;
        let at = finite.partition_point(|bucket| bucket.count < rank);
        let Some(bucket) = finite.get(at) else { return Some(highest.bound) };
        let below = match at.checked_sub(1) {
            Some(below) => finite[below],
            None if bucket.bound <= 0.0 => return Some(bucket.bound),
            None => Bucket { bound: 0.0, count: 0.0 },
        };
        let share = (rank - below.count) / (bucket.count - below.count);
        Some((bucket.bound - below.bound).mul_add(share, below.bound))
    }

    /// Returns the buckets with counts that do not fall. A scrape is no snapshot, so the counts may
    /// be of slightly different moments.
    fn rising(&self) -> Vec<Bucket> {
        let mut highest = 0.0;
        let rising = self.buckets.iter().map(|bucket| {
            highest = bucket.count.max(highest);
            Bucket { count: highest, ..*bucket }
        });
        rising.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    fn histogram(buckets: &[(f64, f64)]) -> Histogram {
        let mut histogram = Histogram::default();
        buckets.iter().for_each(|(bound, count)| histogram.add(*bound, *count));
        histogram
    }

    fn assert_close(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    }

    // The expected values are those of `histogram_quantile`.
    #[test]
    fn quantile_is_interpolated_in_its_bucket() {
        let even = histogram(&[(1.0, 10.0), (2.0, 30.0), (4.0, 100.0), (INF, 100.0)]);
        for (q, expected) in [
            (0.0, 0.0),
            (0.05, 0.5),
            (0.1, 1.0),
            (0.2, 1.5),
            (0.3, 2.0),
            (0.65, 3.0),
            (0.99, 2.0 + 2.0 * 69.0 / 70.0),
            (1.0, 4.0),
        ] {
            assert_close(even.quantile(q), expected);
        }
        let in_one = histogram(&[(1.0, 0.0), (2.0, 0.0), (4.0, 8.0), (8.0, 8.0), (INF, 8.0)]);
        assert_close(in_one.quantile(0.5), 3.0);
        assert_close(histogram(&[(1.0, 4.0), (INF, 4.0)]).quantile(0.5), 0.5);
        let negative = histogram(&[(-1.0, 4.0), (1.0, 8.0), (INF, 8.0)]);
        assert_close(negative.quantile(0.25), -1.0);
        assert_close(negative.quantile(0.75), 0.0);
    }

    #[test]
    fn quantile_beyond_the_highest_bound_is_that_bound() {
        let slow = histogram(&[(1.0, 5.0), (2.0, 6.0), (INF, 10.0)]);
        assert_close(slow.quantile(0.5), 1.0);
        assert_close(slow.quantile(0.61), 2.0);
        assert_close(slow.quantile(0.99), 2.0);
        assert_close(histogram(&[(1.0, 0.0), (INF, 10.0)]).quantile(0.5), 1.0);
    }

    #[test]
    fn quantile_needs_observations_and_all_buckets() {
        for buckets in [
            &[][..],
            &[(INF, 10.0)],
            &[(1.0, 10.0)],
            &[(1.0, 10.0), (2.0, 10.0)],
            &[(1.0, 0.0), (2.0, 0.0), (INF, 0.0)],
        ] {
            assert_eq!(histogram(buckets).quantile(0.5), None, "{buckets:?}");
        }
    }

    #[test]
    fn buckets_of_several_series_add_up_in_any_order() {
        let summed = histogram(&[
            (INF, 8.0),
            (2.0, 8.0),
            (1.0, 4.0),
            (1.0, 6.0),
            (INF, 12.0),
            (2.0, 12.0),
            (f64::NAN, 5.0),
            (1.0, f64::NAN),
            (1.0, INF),
            (1.0, -3.0),
        ]);
        assert_eq!(summed, histogram(&[(1.0, 10.0), (2.0, 20.0), (INF, 20.0)]));
        assert_close(summed.quantile(0.75), 1.5);
    }

    #[test]
    fn counts_that_fall_from_bucket_to_bucket_are_raised() {
        let torn = histogram(&[(1.0, 10.0), (2.0, 9.0), (4.0, 20.0), (INF, 19.0)]);
        assert_close(torn.quantile(0.5), 1.0);
        assert_close(torn.quantile(1.0), 4.0);
    }

    #[test]
    fn difference_is_what_was_observed_between_two_scrapes() {
        let first = histogram(&[(1.0, 10.0), (2.0, 10.0), (INF, 10.0)]);
        let second = histogram(&[(1.0, 10.0), (2.0, 14.0), (INF, 14.0)]);
        let between = second.since(&first).unwrap();
        assert_eq!(between, histogram(&[(1.0, 0.0), (2.0, 4.0), (INF, 4.0)]));
        assert_close(between.quantile(0.5), 1.5);
        assert_eq!(first.since(&first).unwrap().quantile(0.5), None);
        assert_eq!(second.since(&Histogram::default()), Some(second.clone()));
    }

    #[test]
    fn counter_that_has_fallen_or_gone_is_a_restart() {
        let first = histogram(&[(1.0, 10.0), (2.0, 12.0), (INF, 12.0)]);
        for restarted in [
            // Fewer in all, fewer in one bucket, and another set of buckets.
            &[(1.0, 1.0), (2.0, 1.0), (INF, 1.0)][..],
            &[(1.0, 3.0), (2.0, 20.0), (INF, 20.0)],
            &[(1.0, 20.0), (INF, 20.0)],
            &[],
        ] {
            assert_eq!(histogram(restarted).since(&first), None, "{restarted:?}");
        }
    }
}
