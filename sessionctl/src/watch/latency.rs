//! How long validations took, by where the answer came from: the difference of two scrapes of a
//! node's metrics.

use std::time::Duration;

/// The values of the label `source`, and how they are shown.
pub(super) const SOURCES: [(&str, &str); 3] =
    [("near", "near cache"), ("cache", "Redis"), ("store", "Postgres")];

const VALIDATIONS: &str = "session_layer_validations_total";
const BUCKETS: &str = "session_layer_validation_duration_seconds_bucket";

/// The counters of each of [`SOURCES`], which rise until the process restarts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scrape {
    sources: [Counted; SOURCES.len()],
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Counted {
    validations: u64,
    /// How many validations took at most this many seconds, in ascending order. The last bound is
    /// infinite.
    buckets: Vec<(f64, u64)>,
}

/// The validations of one source in an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Latency {
    pub(super) validations: u64,
    /// `None` without an earlier scrape.
    pub(super) per_second: Option<f64>,
    /// In milliseconds, interpolated within a bucket. `None` if no validation was timed.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Scrape {
    /// Parses the text that Prometheus scrapes. Returns `None` if it lacks the histogram, as that
    /// of an exporter without its buckets does.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut scrape = Self::default();
        for line in text.lines() {
            let Some(sample) = Sample::parse(line) else { continue };
            let source = SOURCES.iter().position(|(name, _)| sample.label("source") == Some(name));
            let Some(counted) = source.map(|at| &mut scrape.sources[at]) else { continue };
            match sample.name {
                VALIDATIONS => counted.validations += sample.value,
                BUCKETS => counted.add(sample.label("le")?.parse().ok()?, sample.value),
                _ => {}
            }
        }
        let has_buckets = scrape.sources.iter().any(|counted| !counted.buckets.is_empty());
        has_buckets.then_some(scrape)
    }

    /// Returns the latency of each source since an earlier scrape, or since the process started.
    pub(super) fn since(&self, before: Option<(&Self, Duration)>) -> [Latency; SOURCES.len()] {
        std::array::from_fn(|at| {
            let now = &self.sources[at];
            let then = before.map(|(scrape, _)| &scrape.sources[at]);
            // After a restart the counters begin again.
            let then = then.filter(|then| then.validations <= now.validations);
            let validations = now.validations - then.map_or(0, |then| then.validations);
            let buckets = now.buckets.iter().map(|(bound, count)| {
                (*bound, count.saturating_sub(then.map_or(0, |then| then.up_to(*bound))))
            });
            let buckets: Vec<_> = buckets.collect();
            Latency {
                validations,
                per_second: before.map(|(_, span)| per_second(validations, span)),
                p50: quantile(&buckets, 0.5).map(|seconds| seconds * 1e3),
                p99: quantile(&buckets, 0.99).map(|seconds| seconds * 1e3),
            }
        })
    }
}

impl Counted {
    /// Adds the bucket of one result. The buckets of all results are one histogram.
    fn add(&mut self, bound: f64, count: u64) {
        let at = self.buckets.partition_point(|(other, _)| *other < bound);
        match self.buckets.get_mut(at) {
            Some((same, counted)) if *same == bound => *counted += count,
            _ => self.buckets.insert(at, (bound, count)),
        }
    }

    fn up_to(&self, bound: f64) -> u64 {
        let same = self.buckets.iter().find(|(other, _)| *other == bound);
        same.map_or(0, |(_, count)| *count)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Returns a quantile as Prometheus' `histogram_quantile` does: linear within a bucket, and the last
/// finite bound for what lies beyond it.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn quantile(buckets: &[(f64, u64)], quantile: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
    let rank = quantile * total as f64;
    let at = buckets.iter().position(|(_, count)| *count as f64 >= rank)?;
    let (lower, below) = at.checked_sub(1).map_or((0.0, 0), |before| buckets[before]);
    let (upper, up_to) = buckets[at];
    if upper.is_infinite() {
        return Some(lower);
    }
    let part = (rank - below as f64) / (up_to - below) as f64;
    Some((upper - lower).mul_add(part, lower))
}

/// One line of Prometheus' text format.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: u64,
}

impl<'a> Sample<'a> {
    /// Returns `None` for a comment, and for a value that is no counter's.
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.trim().split_once('{')?;
        // A label's value may have a brace, and what follows the labels has none.
        let (labels, value) = rest.rsplit_once('}')?;
        // A time may follow.
        let value = value.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { name, labels, value })
    }

    /// Returns the value of a label, with its escapes.
    fn label(&self, wanted: &str) -> Option<&'a str> {
        let mut rest = self.labels;
        loop {
            let (name, quoted) = rest.split_once("=\"")?;
            let mut escaped = false;
            let end = quoted.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            if name.trim_matches([',', ' ']) == wanted {
                return Some(&quoted[..end]);
            }
            rest = &quoted[end + 1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"
# HELP session_layer_validations_total Look-ups.
# TYPE session_layer_validations_total counter
session_layer_validations_total{source="cache",result="valid"} 90
session_layer_validations_total{source="cache",result="invalid"} 10
session_layer_validations_total{source="none",result="invalid"} 7
app_requests_total{source="cache"} 5
session_layer_validation_duration_seconds_bucket{source="cache",result="valid",le="0.001"} 90
session_layer_validation_duration_seconds_bucket{source="cache",result="valid",le="0.005"} 90
session_layer_validation_duration_seconds_bucket{source="cache",result="valid",le="+Inf"} 90
session_layer_validation_duration_seconds_bucket{source="cache",result="invalid",le="0.001"} 0
session_layer_validation_duration_seconds_bucket{source="cache",result="invalid",le="0.005"} 10
session_layer_validation_duration_seconds_bucket{source="cache",result="invalid",le="+Inf"} 10
session_layer_validation_duration_seconds_sum{source="cache",result="valid"} 0.04
"#;

    fn scrape(text: &str) -> Scrape {
        Scrape::parse(text).unwrap()
    }

    #[test]
    fn results_of_a_source_are_one_histogram() {
        let [near, redis, postgres] = scrape(START).since(None);
        assert_eq!((redis.validations, redis.per_second), (100, None));
        // Half of the 90 in the first bucket, and 9 of the 10 in the second.
        assert!((redis.p50.unwrap() - 0.555).abs() < 0.001, "{redis:?}");
        assert!((redis.p99.unwrap() - 4.6).abs() < 0.001, "{redis:?}");
        for none in [near, postgres] {
            assert_eq!((none.validations, none.p50, none.p99), (0, None, None));
        }
    }

    #[test]
    fn interval_is_the_difference_and_survives_a_restart() {
        let before = scrape(START);
        let later = scrape(
            r#"
session_layer_validations_total{source="cache",result="valid"} 290
session_layer_validations_total{source="cache",result="invalid"} 10
session_layer_validation_duration_seconds_bucket{source="cache",result="valid",le="0.001"} 90
session_layer_validation_duration_seconds_bucket{source="cache",result="valid",le="0.005"} 290
session_layer_validation_duration_seconds_bucket{source="cache",result="valid",le="+Inf"} 290
session_layer_validation_duration_seconds_bucket{source="cache",result="invalid",le="0.001"} 0
session_layer_validation_duration_seconds_bucket{source="cache",result="invalid",le="0.005"} 10
session_layer_validation_duration_seconds_bucket{source="cache",result="invalid",le="+Inf"} 10
"#,
        );
        let two = Duration::from_secs(2);
        let [_, redis, _] = later.since(Some((&before, two)));
        assert_eq!((redis.validations, redis.per_second), (200, Some(100.0)));
        assert_eq!(redis.p50, Some(3.0));
        // The counters of `before` are those of a process that has restarted since.
        let [_, redis, _] = before.since(Some((&later, two)));
        assert_eq!((redis.validations, redis.per_second), (100, Some(50.0)));
        let [_, idle, _] = later.since(Some((&later, two)));
        assert_eq!((idle.validations, idle.p99), (0, None));
    }

    #[test]
    fn quantile_is_that_of_prometheus() {
        let buckets = [(0.1, 10), (0.2, 10), (0.4, 30), (f64::INFINITY, 40)];
        for (at, expected) in [(0.125, 0.05), (0.25, 0.1), (0.5, 0.3), (0.75, 0.4), (0.99, 0.4)] {
            let found = quantile(&buckets, at).unwrap();
            assert!((found - expected).abs() < 1e-9, "{at}: {found}");
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[(0.1, 0), (f64::INFINITY, 0)], 0.5), None);
        assert_eq!(quantile(&[(f64::INFINITY, 3)], 0.5), Some(0.0));
    }

    #[test]
    fn label_is_found_behind_any_other() {
        let of = |line| Sample::parse(line).and_then(|sample| sample.label("source"));
        for line in [
            r#"m{source="near"} 1"#,
            r#"m{app="a,\"b\"}",source="near",} 1 1700000000"#,
            r#"m{not_source="x", source="near"} 1"#,
            r#"m{path="\\",source="near"} 1"#,
        ] {
            assert_eq!(of(line), Some("near"), "{line}");
        }
        for line in ["", "# HELP m text", "m 1", "m{} 1", "m{source=\"near} 1", "m{a=\"b\"} x"] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn text_without_the_buckets_is_no_scrape() {
        for text in [
            "",
            "<html>",
            r#"session_layer_validations_total{source="cache"} 9"#,
            r#"session_layer_validation_duration_seconds{source="cache",quantile="0.5"} 0.1"#,
            r#"session_layer_validation_duration_seconds_bucket{source="cache",le="x"} 1"#,
        ] {
            assert_eq!(Scrape::parse(text), None, "{text}");
        }
    }
}
