//! [`Publisher`]: the figures of one [`Sessions`] for the application's recorder.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Unit};

use crate::cache::{CacheStatus, Rejected};
use crate::engine::breaker::BreakerState;
use crate::engine::cache_mode::CacheMode;
use crate::engine::instruments::Instruments;
use crate::engine::instruments::catalog::{self, METRICS, MetricDescription, MetricKind};
use crate::engine::instruments::histogram::{self, Snapshot, recorded_between};
use crate::engine::instruments::recording::{
    CACHE_CALLS, CACHE_ERRORS, CHANGE_RESULTS, CHANGES, END_REASONS, OUTCOMES, STORE_CALLS,
    STORE_ERRORS,
};
use crate::engine::metrics::Metrics;
use crate::engine::staleness::PartitionPolicy;
use crate::model::lock::lock;
use crate::sessions::Sessions;
use crate::sessions::erased::AnyEngine;
use crate::store::PoolStatus;

/// How often [`Publisher::run`] publishes.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);

/// Everything that metrics show of one engine, at one moment.
pub(crate) struct Observed<'a> {
    pub(crate) instruments: &'a Instruments,
    pub(crate) metrics: Metrics,
    pub(crate) mode: CacheMode,
    pub(crate) breaker: BreakerState,
    pub(crate) cache: CacheStatus,
    pub(crate) pools: Vec<PoolStatus>,
    pub(crate) policy: PartitionPolicy,
    /// `None` if there is no journal.
    pub(crate) staleness_bound: Option<Duration>,
    /// The age of the journal, or the time since the start. `None` if there is no journal, and
    /// during a pause.
    pub(crate) journal_age: Option<Duration>,
    /// This machine's wall clock minus the store's, in microseconds.
    pub(crate) clock_offset: Option<i64>,
}

/// Publishes the figures of one [`Sessions`] to a recorder of the facade [`metrics`].
///
/// Counting costs a request the same with and without a recorder, and allocates nothing. The
/// recorder is called only when [`publish`](Self::publish) is. An exporter with an endpoint of its
/// own calls it before it renders, so that each scrape has the figures of that moment. Otherwise
/// spawn [`run`](Self::run).
///
/// The recorder is the one that is in force when the publisher is created: the global one, or that
/// of [`metrics::with_local_recorder`]. Install it first. A publisher keeps its `Sessions` neither
/// alive nor running.
///
/// ```
/// # use session_layer::{Sessions, metrics::Publisher};
/// # fn example(sessions: &Sessions, admin: &Sessions) {
/// // After the recorder was installed.
/// tokio::spawn(Publisher::new(sessions).run());
///
/// // Several `Sessions` in one process need a label each, or their series would be one.
/// tokio::spawn(Publisher::with_labels(admin, [("service", "admin")]).run());
/// # }
/// ```
pub struct Publisher {
    engine: Weak<dyn AnyEngine>,
    /// Published by one caller at a time, because counters are published as differences.
    series: Mutex<Vec<Series>>,
}

impl Publisher {
    /// Registers every [metric](METRICS) with the recorder.
    #[must_use]
    pub fn new(sessions: &Sessions) -> Self {
        Self::with_labels(sessions, std::iter::empty::<(String, String)>())
    }

    /// Registers every [metric](METRICS) with the recorder. Each series has these labels, by name
    /// and value, beside its own.
    #[must_use]
    pub fn with_labels<N: Into<String>, V: Into<String>>(
        sessions: &Sessions,
        labels: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let labels = labels.into_iter().map(|(name, value)| Label::new(name.into(), value.into()));
        let engine = Arc::downgrade(&sessions.engine);
        let observed = sessions.engine.observed();
        let ttl = sessions.ttl();
        let series = metrics::with_recorder(|recorder| {
            METRICS.iter().for_each(|metric| describe(recorder, metric));
            let labels = labels.collect();
            let mut registration = Registration { recorder, labels, series: Vec::new() };
            register(&mut registration, &observed, ttl);
            registration.series
        });
        Self { engine, series: Mutex::new(series) }
    }

    /// Publishes the present figures. Returns `false` if the `Sessions` is gone.
    pub fn publish(&self) -> bool {
        let Some(engine) = self.engine.upgrade() else {
            return false;
        };
        let observed = engine.observed();
        for series in lock(&self.series).iter_mut() {
            series.publish(&observed);
        }
        true
    }

    /// Publishes twice a second, for as long as the `Sessions` exists.
    pub async fn run(self) {
        while self.publish() {
            tokio::time::sleep(PUBLISH_EVERY).await;
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let series = lock(&self.series).len();
        f.debug_struct("Publisher").field("series", &series).finish_non_exhaustive()
    }
}

type Read<T> = Box<dyn Fn(&Observed<'_>) -> T + Send + Sync>;

/// A handle of the recorder, and how to read its value.
enum Series {
    Counter { handle: Counter, published: u64, read: Read<u64> },
    Gauge { handle: Gauge, read: Read<f64> },
    Histogram { handle: Histogram, published: Box<Snapshot>, read: ReadHistogram },
}

/// The value of a label, and the count that belongs to it.
type Labelled<T> = (&'static str, fn(&T) -> u64);

type ReadHistogram = Box<dyn Fn(&Instruments) -> &histogram::Histogram + Send + Sync>;

impl Series {
    fn publish(&mut self, observed: &Observed<'_>) {
        match self {
            Self::Counter { handle, published, read } => {
                let now = read(observed);
                // Increments add up if two publishers have the same labels.
                handle.increment(now.saturating_sub(*published));
                *published = now;
            }
            Self::Gauge { handle, read } => handle.set(read(observed)),
            Self::Histogram { handle, published, read } => {
                let now = read(observed.instruments).snapshot();
                for (mean, count) in recorded_between(published, &now) {
                    handle.record_many(mean, usize::try_from(count).unwrap_or(usize::MAX));
                }
                **published = now;
            }
        }
    }
}

/// The registration of all series with one recorder.
struct Registration<'a> {
    recorder: &'a dyn metrics::Recorder,
    labels: Vec<Label>,
    series: Vec<Series>,
}

const METADATA: Metadata<'_> = Metadata::new("session_layer", Level::INFO, None);

impl Registration<'_> {
    /// Returns the key of a series. `values` are those of the metric's labels, in order.
    fn key(&self, metric: &MetricDescription, values: &[&str]) -> Key {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let own = metric.labels.iter().zip(values);
        let own = own.map(|(name, value)| Label::new(*name, (*value).to_owned()));
        Key::from_parts(metric.name, self.labels.iter().cloned().chain(own).collect::<Vec<_>>())
    }

    fn counter(
        &mut self,
        metric: MetricDescription,
        values: &[&str],
        read: impl Fn(&Observed<'_>) -> u64 + Send + Sync + 'static,
    ) {
        let handle = self.recorder.register_counter(&self.key(&metric, values), &METADATA);
        self.series.push(Series::Counter { handle, published: 0, read: Box::new(read) });
    }

    fn gauge(
        &mut self,
        metric: MetricDescription,
        values: &[&str],
        read: impl Fn(&Observed<'_>) -> f64 + Send + Sync + 'static,
    ) {
        let handle = self.recorder.register_gauge(&self.key(&metric, values), &METADATA);
        self.series.push(Series::Gauge { handle, read: Box::new(read) });
    }

    fn histogram(
        &mut self,
        metric: MetricDescription,
        values: &[&str],
        read: impl Fn(&Instruments) -> &histogram::Histogram + Send + Sync + 'static,
    ) {
        let handle = self.recorder.register_histogram(&self.key(&metric, values), &METADATA);
        let published = Box::<Snapshot>::default();
        self.series.push(Series::Histogram { handle, published, read: Box::new(read) });
    }
}

fn describe(recorder: &dyn metrics::Recorder, metric: &MetricDescription) {
    let (name, help) = (KeyName::from_const_str(metric.name), metric.help.into());
    let unit = match metric.name {
        name if name.ends_with("_seconds") => Some(Unit::Seconds),
        name if name.ends_with("_bytes") => Some(Unit::Bytes),
        _ => None,
    };
    match metric.kind {
        MetricKind::Counter => recorder.describe_counter(name, unit, help),
        MetricKind::Gauge => recorder.describe_gauge(name, unit, help),
        MetricKind::Histogram => recorder.describe_histogram(name, unit, help),
    }
}

/// Registers every series. `now` has the settings, which are labels.
fn register(all: &mut Registration<'_>, now: &Observed<'_>, ttl: Duration) {
    register_validations(all);
    register_cache(all);
    register_store(all, &now.pools);
    register_changes(all);
    register_journal(all);
    let policy = match now.policy {
        PartitionPolicy::Available => "available",
        PartitionPolicy::FailClosed => "fail-closed",
    };
    let sealed = now.cache.sealed.map_or("none", |sealed| if sealed { "true" } else { "false" });
    let [ttl, bound] = [ttl, now.staleness_bound.unwrap_or_default()].map(|it| format!("{it:?}"));
    let values = [env!("CARGO_PKG_VERSION"), policy, &ttl, &bound, sealed];
    all.gauge(catalog::SETTINGS, &values, |_| 1.0);
}

fn register_validations(all: &mut Registration<'_>) {
    for (outcome, labels) in OUTCOMES {
        let near = labels[0] == "near";
        all.counter(catalog::VALIDATIONS, &labels, move |now| {
            if near { now.metrics.near_hits } else { now.instruments.validations(outcome).count() }
        });
        all.histogram(catalog::VALIDATION_DURATION, &labels, move |it| it.validations(outcome));
    }
    all.gauge(catalog::READS_IN_FLIGHT, &[], |now| number(now.metrics.reads_in_flight));
    all.gauge(catalog::READS_LIMIT, &[], |now| number(now.metrics.max_concurrent_reads));
    all.gauge(catalog::READS_WAITING, &[], |now| number(now.metrics.reads_waiting));
    all.counter(catalog::TOKENS_READ, &[], |now| now.metrics.tokens_read);
    all.counter(catalog::TOKENS_COALESCED, &[], |now| now.metrics.coalesced);
    all.counter(catalog::SHED, &["validation"], |now| now.metrics.shed);
    all.counter(catalog::SHED, &["change"], |now| now.metrics.changes_shed);
}

fn register_cache(all: &mut Registration<'_>) {
    let lookups: [Labelled<Metrics>; 6] = [
        ("near_hit", |it| it.near_hits),
        ("hit", |it| it.hits.saturating_sub(it.near_hits)),
        ("miss", |it| it.misses),
        ("error", |it| it.errors.saturating_sub(it.skipped_by_breaker)),
        ("skipped", |it| it.skipped_by_breaker),
        ("bypassed", |it| it.bypassed),
    ];
    for (result, read) in lookups {
        all.counter(catalog::CACHE_LOOKUPS, &[result], move |now| read(&now.metrics));
    }
    for call in CACHE_CALLS {
        let name = call.as_str();
        let read = move |now: &Observed<'_>| now.instruments.cache_calls(call);
        all.counter(catalog::CACHE_OPERATIONS, &[name], read);
        for (kind, error) in CACHE_ERRORS.iter().enumerate() {
            let read = move |now: &Observed<'_>| now.instruments.cache_errors(call, kind);
            all.counter(catalog::CACHE_ERRORS, &[name, error.as_str()], read);
        }
    }
    all.gauge(catalog::CACHE_CONNECTED, &[], |now| flag(now.cache.connected));
    for (mode, name) in [(CacheMode::On, "on"), (CacheMode::Bypass, "bypass")] {
        all.gauge(catalog::CACHE_MODE, &[name], move |now| flag(now.mode == mode));
    }
    all.gauge(catalog::CACHE_CONNECTIONS_MAX, &[], |now| number(now.cache.size as u64));
    all.gauge(catalog::CACHE_CONNECTIONS_AVAILABLE, &[], |now| number(now.cache.available as u64));
    all.gauge(catalog::CACHE_CONNECTIONS_PENDING, &[], |now| number(now.cache.pending as u64));
    all.counter(catalog::FILLS, &["stored"], |now| now.metrics.fills);
    all.counter(catalog::FILLS, &["refused"], |now| now.metrics.fills_refused);
    let rejected: [Labelled<Rejected>; 6] = [
        ("undecodable", |it| it.undecodable),
        ("unsealed", |it| it.unsealed),
        ("unknown_key", |it| it.unknown_key),
        ("forged", |it| it.forged),
        ("stale_incarnation", |it| it.stale_incarnation),
        ("foreign", |it| it.foreign),
    ];
    for (reason, read) in rejected {
        let read = move |now: &Observed<'_>| read(&now.cache.rejected);
        all.counter(catalog::REJECTED_ENTRIES, &[reason], read);
    }
    all.gauge(catalog::NEAR_CACHE_ENTRIES, &[], |now| number(now.metrics.near_entries));
    all.gauge(catalog::NEAR_CACHE_SIZE, &[], |now| number(now.metrics.near_bytes));
    for (state, name) in [
        (BreakerState::Closed, "closed"),
        (BreakerState::Open, "open"),
        (BreakerState::HalfOpen, "half_open"),
    ] {
        all.gauge(catalog::BREAKER_STATE, &[name], move |now| flag(now.breaker == state));
    }
    let transitions = catalog::BREAKER_TRANSITIONS;
    all.counter(transitions, &["open"], |now| now.metrics.breaker_opened);
    all.counter(transitions, &["closed"], |now| now.instruments.breaker_closed_times());
}

fn register_store(all: &mut Registration<'_>, pools: &[PoolStatus]) {
    for call in STORE_CALLS {
        let name = call.as_str();
        all.histogram(catalog::STORE_DURATION, &[name], move |it| it.store_calls(call));
        for (kind, error) in STORE_ERRORS.iter().enumerate() {
            let read = move |now: &Observed<'_>| now.instruments.store_errors(call, kind);
            all.counter(catalog::STORE_ERRORS, &[name, error.as_str()], read);
        }
    }
    for PoolStatus { name, .. } in pools {
        let name = *name;
        let read = move |now: &Observed<'_>, of: fn(&PoolStatus) -> u32| {
            let pool = now.pools.iter().find(|pool| pool.name == name);
            pool.map_or(0.0, |pool| f64::from(of(pool)))
        };
        all.gauge(catalog::STORE_CONNECTIONS, &[name, "used"], move |now| read(now, |it| it.used));
        all.gauge(catalog::STORE_CONNECTIONS, &[name, "idle"], move |now| read(now, |it| it.idle));
        all.gauge(catalog::STORE_CONNECTIONS_MAX, &[name], move |now| read(now, |it| it.max));
        let pending = catalog::STORE_CONNECTIONS_PENDING;
        all.gauge(pending, &[name], move |now| read(now, |it| it.pending));
    }
}

fn register_changes(all: &mut Registration<'_>) {
    for (kind, name) in CHANGES {
        for result in CHANGE_RESULTS {
            let read = move |now: &Observed<'_>| now.instruments.changes(kind, result);
            all.counter(catalog::CHANGES, &[name, result.as_str()], read);
        }
    }
    all.gauge(catalog::CHANGES_WAITING, &[], |now| number(now.metrics.changes_waiting));
    all.counter(catalog::SESSIONS_CREATED, &[], |now| now.instruments.sessions_created());
    for (at, reason) in END_REASONS.iter().enumerate() {
        let read = move |now: &Observed<'_>| now.instruments.sessions_ended(at);
        all.counter(catalog::SESSIONS_ENDED, &[reason], read);
    }
}

fn register_journal(all: &mut Registration<'_>) {
    let pending = catalog::PENDING_INVALIDATIONS;
    all.gauge(pending, &[], |now| number(now.metrics.pending_invalidations));
    all.gauge(catalog::JOURNAL_AGE, &[], |now| seconds(now.journal_age));
    all.gauge(catalog::PAUSED, &[], |now| flag(now.metrics.paused));
    all.gauge(catalog::JOURNAL_LAG, &[], |now| now.instruments.journal_lag().as_secs_f64());
    all.counter(catalog::JOURNAL_READS, &[], |now| now.metrics.journal_reads);
    all.gauge(catalog::CHANGED_SESSIONS, &[], |now| number(now.metrics.changed_sessions));
    all.gauge(catalog::STALENESS_BOUND, &[], |now| seconds(now.staleness_bound));
    all.gauge(catalog::CLOCK_OFFSET, &[], |now| clock_offset(now.clock_offset));
}

/// Returns an offset in microseconds as seconds. An unknown offset must not count as none.
#[expect(clippy::cast_precision_loss, reason = "a clock is compared to milliseconds")]
fn clock_offset(micros: Option<i64>) -> f64 {
    micros.map_or(f64::NAN, |micros| micros as f64 / 1e6)
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are far below 2^52")]
fn number(number: u64) -> f64 {
    number as f64
}

fn seconds(span: Option<Duration>) -> f64 {
    span.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_clock_offset_is_no_number() {
        assert!(clock_offset(None).is_nan());
        assert_eq!(clock_offset(Some(-1_500_000)).to_string(), "-1.5");
    }
}
