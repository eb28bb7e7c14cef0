//! A node's own figures: pure functions of moments and counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use session_layer::Metrics;
use session_layer::health::{HealthReport, HealthStatus};

use crate::{moment::Moment, protocol::Report};

/// The node's own figures since the mark.
#[derive(Debug)]
pub(super) struct Figures {
    marked: Counters,
    /// When hits were last counted, and their number.
    last_hit: (Moment, u64),
    without_hits: Duration,
    journal_age: Option<Duration>,
    let_in: u64,
    let_in_in_touch: u64,
    refused: u64,
    health: BTreeMap<String, u32>,
    errors: BTreeSet<String>,
    /// The first hit since the start, not since the mark.
    first_hit: Option<Moment>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    hits: u64,
    validations: u64,
    unavailable: u64,
}

impl From<&Metrics> for Counters {
    fn from(metrics: &Metrics) -> Self {
        Self { hits: metrics.hits, validations: metrics.total(), unavailable: metrics.unavailable }
    }
}

impl Figures {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            marked: Counters::default(),
            last_hit: (now, 0),
            without_hits: Duration::ZERO,
            journal_age: None,
            let_in: 0,
            let_in_in_touch: 0,
            refused: 0,
            health: BTreeMap::new(),
            errors: BTreeSet::new(),
            first_hit: None,
        }
    }

    /// Restarts the figures.
    pub(super) fn mark(&mut self, now: Moment, metrics: &Metrics) {
        *self = Self {
            marked: metrics.into(),
            last_hit: (now, metrics.hits),
            first_hit: self.first_hit,
            ..Self::new(now)
        };
    }

    /// Adds a sample of the counters.
    pub(super) fn sample(&mut self, now: Moment, metrics: &Metrics) {
        let (last, hits) = self.last_hit;
        self.without_hits = self.without_hits.max(now.since(last));
        if metrics.hits > hits {
            self.last_hit = (now, metrics.hits);
            self.first_hit.get_or_insert(now);
        }
        // `None` is less than any age.
        self.journal_age = self.journal_age.max(metrics.journal_age);
    }

    /// Adds a health document.
    pub(super) fn health(&mut self, health: &HealthReport) {
        let status = match health.status {
            HealthStatus::Healthy => "healthy",
            HealthStatus::Degraded => "degraded",
            HealthStatus::Unhealthy => "unhealthy",
            _ => "unknown",
        };
        *self.health.entry(status.to_owned()).or_default() += 1;
        let errors = health.errors.iter();
        self.errors.extend(errors.map(|error| cause(error)));
    }

    /// Counts an ended session that was accepted too late.
    pub(super) fn let_in(&mut self, in_touch: bool) {
        self.let_in += 1;
        self.let_in_in_touch += u64::from(in_touch);
    }

    /// Counts a valid session that was found invalid.
    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    pub(super) fn first_hit(&self) -> Option<Moment> {
        self.first_hit
    }

    pub(super) fn report(&mut self, now: Moment, metrics: &Metrics) -> Report {
        self.sample(now, metrics);
        let counters = Counters::from(metrics);
        Report {
            hits: counters.hits - self.marked.hits,
            validations: counters.validations - self.marked.validations,
            unavailable: counters.unavailable - self.marked.unavailable,
            without_hits: self.without_hits,
            journal_age: self.journal_age,
            let_in: self.let_in,
            let_in_in_touch: self.let_in_in_touch,
            refused: self.refused,
            health: self.health.clone(),
            errors: self.errors.clone(),
        }
    }
}

/// Returns an error of a health document without its variable parts: how often and how long ago it
/// occurred, and times in ms.
fn cause(error: &str) -> String {
    let cause = error.rsplit_once(" (").map_or(error, |(cause, _)| cause);
    let is_span = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
    let words = cause.split(' ').map(|word| match word.split_once("ms") {
        Some((_, rest)) if is_span(word) => format!("… ms{rest}"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(hits: u64, misses: u64, age: Option<u64>) -> Metrics {
        let mut metrics = Metrics::default();
        (metrics.hits, metrics.misses) = (hits, misses);
        metrics.journal_age = age.map(Duration::from_millis);
        metrics
    }

    fn at(millis: u64) -> Moment {
        Moment::BOOT.plus(Duration::from_millis(millis))
    }

    #[test]
    fn report_counts_from_the_mark() {
        let mut figures = Figures::new(at(0));
        figures.sample(at(10), &metrics(5, 5, Some(900)));
        figures.refused();
        figures.mark(at(20), &metrics(8, 6, Some(20)));
        figures.sample(at(30), &metrics(9, 6, Some(30)));
        let report = figures.report(at(40), &metrics(10, 8, Some(40)));
        assert_eq!((report.hits, report.validations), (2, 4));
        assert_eq!(report.journal_age, Some(Duration::from_millis(40)));
        assert_eq!(report.refused, 0);
        assert_eq!(figures.first_hit(), Some(at(10)));
    }

    #[test]
    fn longest_time_without_hits_includes_the_current_one() {
        let mut figures = Figures::new(at(0));
        for (millis, hits) in [(10, 1), (20, 1), (50, 2), (60, 2)] {
            figures.sample(at(millis), &metrics(hits, 0, None));
        }
        let report = figures.report(at(65), &metrics(2, 0, None));
        assert_eq!(report.without_hits, Duration::from_millis(40));
        assert_eq!(report.journal_age, None);
        let report = figures.report(at(150), &metrics(2, 0, None));
        assert_eq!(report.without_hits, Duration::from_millis(100));
    }

    #[test]
    fn repeated_error_has_the_same_cause() {
        let text = "session store: no answer (reading the journal; 3 times, 2 s ago)";
        assert_eq!(cause(text), "session store: no answer");
        let text = "session store: no answer within 371.171891ms: it is stopped (1 s ago)";
        assert_eq!(cause(text), "session store: no answer within … ms: it is stopped");
        assert_eq!(cause("session cache: PING: refused"), "session cache: PING: refused");
    }
}
