//! How long a node's validations took, by the source of the answer, from two scrapes of its
//! metrics. It is a function of the scrapes.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::exposition::samples;
use super::histogram::Histogram;

/// The sources by their value of the label `source`, and their titles.
pub(super) const SOURCES: [(&str, &str); 4] =
    [("near", "near cache"), ("cache", "Redis"), ("store", "Postgres"), ("none", "none")];

const DURATIONS: &str = "session_layer_validation_duration_seconds_bucket";
/// It counts all validations, whereas the histogram has one in 16 near hits.
const VALIDATIONS: &str = "session_layer_validations_total";

/// The counters of one scrape, per source. They rise until the process restarts.
#[derive(Clone, Debug)]
pub(super) struct Scrape {
    at: Instant,
    sources: [Counters; SOURCES.len()],
}

#[derive(Clone, Debug, Default)]
struct Counters {
    durations: Histogram,
    /// `None` if the node does not count them.
    validations: Option<f64>,
}

impl Counters {
    fn since(&self, earlier: &Self) -> Option<Self> {
        let validations = match (self.validations, earlier.validations) {
            (Some(now), Some(before)) if now < before => return None,
            (Some(now), before) => Some(now - before.unwrap_or_default()),
            (None, _) => None,
        };
        Some(Self { durations: self.durations.since(&earlier.durations)?, validations })
    }
}

impl Scrape {
    /// Reads the text of a scrape at `at`. Returns `None` if it has no histogram of validations.
    /// Results and services add up.
    pub(super) fn read(text: &str, at: Instant) -> Option<Self> {
        let mut scrape = Self { at, sources: Default::default() };
        for sample in samples(text).filter(|it| [DURATIONS, VALIDATIONS].contains(&it.name)) {
            if !sample.value.is_finite() {
                continue;
            }
            let source = sample.label("source");
            let Some(at) = SOURCES.iter().position(|(label, _)| Some(*label) == source) else {
                continue;
            };
            let counters = &mut scrape.sources[at];
            if sample.name == VALIDATIONS {
                *counters.validations.get_or_insert_default() += sample.value;
            } else if let Some(bound) = sample.label("le").and_then(|le| le.parse().ok()) {
                counters.durations.add(bound, sample.value);
            }
        }
        let has_durations = scrape.sources.iter().any(|source| !source.durations.is_empty());
        has_durations.then_some(scrape)
    }

    /// Returns what was counted since `earlier`, or `None` after a restart.
    fn since(&self, earlier: &Self) -> Option<[Counters; SOURCES.len()]> {
        let mut counted = self.sources.clone();
        for (counters, before) in counted.iter_mut().zip(&earlier.sources) {
            *counters = counters.since(before)?;
        }
        Some(counted)
    }
}

/// The figures of each source, in the order of [`SOURCES`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Latency {
    pub(super) sources: [Figures; SOURCES.len()],
}

/// The validations with an answer of one source. A figure without validations is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// The median in milliseconds.
    pub(super) p50: Option<f64>,
    /// The 99th percentile in milliseconds.
    pub(super) p99: Option<f64>,
    /// Validations per second. `None` if there is no earlier scrape.
    pub(super) rate: Option<f64>,
}

impl Latency {
    /// Returns the figures of the time between two scrapes. Without an earlier one, or after a
    /// restart, they are those since the start of the process.
    pub(super) fn between(earlier: Option<&Scrape>, now: &Scrape) -> Self {
        let counted = earlier.and_then(|earlier| now.since(earlier));
        let counted = counted.unwrap_or_else(|| now.sources.clone());
        let seconds = earlier
            .map(|earlier| now.at.saturating_duration_since(earlier.at).as_secs_f64())
            .filter(|seconds| *seconds > 0.0);
        Self {
            sources: counted.map(|Counters { durations, validations }| {
                let millis = |q| durations.quantile(q).map(|seconds| rounded(seconds * 1_000.0));
                let rate = validations.zip(seconds).map(|(count, seconds)| count / seconds);
                Figures { p50: millis(0.5), p99: millis(0.99), rate: rate.map(rounded) }
            }),
        }
    }

    /// Returns the figures as JSON, by the label of the source.
    pub(super) fn json(&self) -> Value {
        let fields = SOURCES.iter().zip(&self.sources).map(|((label, _), figures)| {
            let Figures { p50, p99, rate } = figures;
            let figures = json!({ "p50Ms": p50, "p99Ms": p99, "perSecond": rate });
            ((*label).to_owned(), figures)
        });
        Value::Object(fields.collect::<Map<_, _>>())
    }
}

/// Returns a figure as text, and `-` if there is none.
pub(super) fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string())
}

/// Rounds to three digits, or to a whole number from 100 on.
fn rounded(figure: f64) -> f64 {
    let decimals = (2.0 - figure.abs().log10().floor()).clamp(0.0, 9.0);
    let scale = 10_f64.powf(decimals);
    (figure * scale).round() / scale
}

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;

    /// Returns a scrape with validations of one source and result: `fast` of up to 1 ms, and all.
    fn series(source: &str, result: &str, fast: u32, all: u32) -> String {
        let labels = format!("source=\"{source}\",result=\"{result}\"");
        let mut text = format!("{VALIDATIONS}{{{labels}}} {all}\n");
        for (bound, count) in [("0.001", fast), ("0.01", all), ("+Inf", all)] {
            writeln!(text, "{DURATIONS}{{{labels},le=\"{bound}\"}} {count}").unwrap();
        }
        text
    }

    pub(in crate::watch) fn scrape(text: &str, second: u64) -> Scrape {
        static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let begin = *BEGIN.get_or_init(Instant::now);
        Scrape::read(text, begin + Duration::from_secs(second)).unwrap()
    }

    /// Returns a scrape with this many validations of each kind by Redis and Postgres.
    pub(in crate::watch) fn scraped(number: u32, second: u64) -> Scrape {
        let text = series("cache", "valid", number, number) + &series("store", "valid", 0, number);
        scrape(&text, second)
    }

    fn figures(p50: f64, p99: f64, rate: Option<f64>) -> Figures {
        Figures { p50: Some(p50), p99: Some(p99), rate }
    }

    #[test]
    fn figures_are_those_between_two_scrapes() {
        let latency = Latency::between(Some(&scraped(1_000, 10)), &scraped(1_100, 14));
        let [near, cache, store, none] = latency.sources;
        assert_eq!(cache, figures(0.5, 0.99, Some(25.0)));
        assert_eq!(store, figures(5.5, 9.91, Some(25.0)));
        assert_eq!((near, none), (Figures::default(), Figures::default()));
        assert_eq!(
            latency.json()["cache"],
            json!({ "p50Ms": 0.5, "p99Ms": 0.99, "perSecond": 25.0 })
        );
    }

    #[test]
    fn first_scrape_has_no_rate() {
        let [_, cache, ..] = Latency::between(None, &scraped(1_000, 0)).sources;
        assert_eq!(cache, figures(0.5, 0.99, None));
        let [near, ..] = Latency::between(None, &scraped(1_000, 0)).sources;
        assert_eq!([near.p50, near.rate].map(shown), ["-", "-"]);
    }

    #[test]
    fn interval_without_validations_has_a_rate_and_no_quantiles() {
        let [_, cache, ..] = Latency::between(Some(&scraped(7, 0)), &scraped(7, 2)).sources;
        assert_eq!(cache, Figures { rate: Some(0.0), ..Figures::default() });
        assert_eq!([cache.p50, cache.p99, cache.rate].map(shown), ["-", "-", "0"]);
    }

    // Redis has more validations than before the restart, and Postgres has fewer.
    #[test]
    fn restart_counts_from_the_start_of_the_process() {
        let before =
            scrape(&(series("cache", "valid", 10, 10) + &series("store", "valid", 500, 500)), 0);
        let after =
            scrape(&(series("cache", "valid", 10, 40) + &series("store", "valid", 20, 20)), 2);
        let [_, cache, store, _] = Latency::between(Some(&before), &after).sources;
        assert_eq!(cache, figures(4.0, 9.88, Some(20.0)));
        assert_eq!(store, figures(0.5, 0.99, Some(10.0)));
    }

    #[test]
    fn scrapes_of_one_moment_have_no_rate() {
        let [_, cache, ..] = Latency::between(Some(&scraped(1, 3)), &scraped(2, 3)).sources;
        assert_eq!((cache.p50, cache.rate), (Some(0.5), None));
    }

    #[test]
    fn results_and_services_of_a_source_add_up() {
        let service = series("store", "valid", 100, 100).replace("{", "{service=\"admin\",");
        let text = series("store", "valid", 100, 100) + &series("store", "invalid", 0, 200);
        let [_, _, store, _] = Latency::between(None, &scrape(&(text + &service), 0)).sources;
        assert_eq!(store, figures(1.0, 9.82, None));
    }

    #[test]
    fn near_hits_have_the_rate_of_their_counter() {
        let at = |count: u32, second| {
            let text = series("near", "valid", count / 16, count / 16);
            let counted = format!("{VALIDATIONS}{{source=\"near\",result=\"valid\"}} ");
            let (_, buckets) = text.split_once('\n').unwrap();
            scrape(&format!("{counted}{count}\n{buckets}"), second)
        };
        let [near, ..] = Latency::between(Some(&at(160, 0)), &at(480, 1)).sources;
        assert_eq!(near.rate, Some(320.0));
    }

    #[test]
    fn text_without_the_histogram_is_no_scrape() {
        let summary =
            "session_layer_validation_duration_seconds{source=\"cache\",quantile=\"0.5\"} 1";
        let counted = format!("{VALIDATIONS}{{source=\"cache\",result=\"valid\"}} 7");
        let unknown = series("moon", "valid", 1, 1);
        let no_bound = format!("{DURATIONS}{{source=\"cache\",le=\"x\"}} 7");
        for text in ["", "<html>", "up 1\n", summary, &counted, &unknown, &no_bound] {
            assert!(Scrape::read(text, Instant::now()).is_none(), "{text}");
        }
    }

    #[test]
    fn scrape_without_the_counter_has_no_rate() {
        let at = |count, second| {
            let text = series("cache", "valid", count, count);
            scrape(text.split_once('\n').unwrap().1, second)
        };
        let [_, cache, ..] = Latency::between(Some(&at(1, 0)), &at(9, 1)).sources;
        assert_eq!(cache, figures(0.5, 0.99, None));
    }

    #[test]
    fn figure_has_three_digits_or_is_whole() {
        for (figure, text) in [
            (0.0, "0"),
            (0.000_934_5, "0.000935"),
            (0.123_456, "0.123"),
            (1.0, "1"),
            (9.876, "9.88"),
            (98.76, "98.8"),
            (99.99, "100"),
            (12_345.6, "12346"),
        ] {
            assert_eq!(shown(Some(rounded(figure))), text);
        }
    }
}
