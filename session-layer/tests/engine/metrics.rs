//! What a recorder of the facade `metrics` gets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use session_layer::error::CacheErrorKind;
use session_layer::metrics::{METRICS, MetricKind, Publisher};
use session_layer::{CacheMode, NewSession, RevokeTarget, Sessions};
use tokio::time::sleep;

use super::own_changes::{INTERVAL, node};
use crate::ports::{Cache, HOUR, How, Store, ask, until};

/// A recorder that keeps every series, by its text in the format of Prometheus.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, (MetricKind, f64)>>>);

/// One series of a recorder.
struct Handle(Kept, String);

impl Kept {
    fn register(&self, key: &Key, kind: MetricKind) -> Arc<Handle> {
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let text = format!("{}{{{}}}", key.name(), labels.join(","));
        let before = self.0.lock().unwrap().insert(text.clone(), (kind, 0.0));
        assert!(before.is_none(), "{text} was registered twice");
        Arc::new(Handle(self.clone(), text))
    }

    /// Returns the value of a series: its count if it is a histogram.
    fn get(&self, series: &str) -> f64 {
        let kept = self.0.lock().unwrap();
        let found = kept.get(&format!("session_layer_{series}"));
        found.unwrap_or_else(|| panic!("there is no series {series}")).1
    }
}

impl Handle {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut kept = self.0.0.lock().unwrap();
        let (_, value) = kept.get_mut(&self.1).unwrap();
        *value = change(*value);
    }
}

impl CounterFn for Handle {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }
    fn absolute(&self, to: u64) {
        self.change(|_| to as f64);
    }
}

impl GaugeFn for Handle {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }
    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }
    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl HistogramFn for Handle {
    fn record(&self, _: f64) {
        self.change(|count| count + 1.0);
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register(key, MetricKind::Counter))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register(key, MetricKind::Gauge))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.register(key, MetricKind::Histogram))
    }
}

fn published(sessions: &Sessions) -> (Kept, Publisher) {
    let kept = Kept::default();
    let publisher = metrics::with_local_recorder(&kept, || Publisher::new(sessions));
    (kept, publisher)
}

#[tokio::test]
async fn recorder_gets_the_described_metrics_and_no_other() {
    let sessions = Sessions::builder(Cache::default(), Store::new()).build().unwrap();
    let (kept, _publisher) = published(&sessions);
    let described: BTreeSet<_> = METRICS
        .iter()
        .map(|it| (it.name.to_owned(), it.kind.as_str(), it.labels.join(",")))
        .collect();
    let registered: BTreeSet<_> = kept
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|(text, (kind, _))| {
            let (name, labels) = text.strip_suffix('}').unwrap().split_once('{').unwrap();
            let names: Vec<_> =
                labels.split(',').filter_map(|it| Some(it.split_once('=')?.0)).collect();
            (name.to_owned(), kind.as_str(), names.join(","))
        })
        .collect();
    assert_eq!(described.len(), METRICS.len(), "a name is there twice");
    let lacks: Vec<_> = described.difference(&registered).collect();
    // A store without a pool of connections shows none.
    assert!(
        lacks.iter().all(|it| it.0.starts_with("session_layer_store_connections")),
        "{lacks:?}"
    );
    assert_eq!(registered.difference(&described).collect::<Vec<_>>(), Vec::<&_>::new());
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for metric in METRICS {
        let name = metric.name;
        let is_total = name.ends_with("_total");
        assert_eq!(is_total, metric.kind == MetricKind::Counter, "{name}: a counter is a total");
        if metric.kind == MetricKind::Histogram {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn validations_and_changes_are_published() {
    let (cache, _, sessions, session) = node().await;
    let (kept, publisher) = published(&sessions);
    assert_eq!(kept.get("validations_total{source=store,result=valid}"), 0.0, "not published yet");
    assert!(publisher.publish());
    assert_eq!(kept.get("validations_total{source=store,result=valid}"), 1.0);
    assert_eq!(kept.get("validation_duration_seconds{source=store,result=valid}"), 1.0);
    assert_eq!(kept.get("store_operation_duration_seconds{operation=journal}"), {
        sessions.metrics().journal_reads as f64
    });

    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    let new = sessions.create(NewSession::new("bob")).await.unwrap();
    let _applied = sessions.revoke(&new.token).await.unwrap();
    let _applied = sessions.revoke(RevokeTarget::user("bob")).reason("bob left").await.unwrap();
    publisher.publish();
    publisher.publish();
    for (series, value) in [
        ("validations_total{source=cache,result=valid}", 1.0),
        ("cache_lookups_total{result=hit}", 1.0),
        ("cache_operations_total{operation=look_up}", 2.0),
        ("sessions_created_total{}", 1.0),
        ("breaker_state{state=closed}", 1.0),
        ("cache_mode{mode=on}", 1.0),
        ("staleness_bound_seconds{}", 2.0),
    ] {
        assert_eq!(kept.get(series), value, "{series}");
    }
    let made: f64 = ["nothing", "propagated", "committed"]
        .map(|it| kept.get(&format!("changes_total{{kind=revoke,visibility={it}}}")))
        .iter()
        .sum();
    assert_eq!(made, 2.0);

    sessions.set_mode(CacheMode::Bypass);
    assert_eq!(ask(&sessions, 1).await, "valid");
    publisher.publish();
    assert_eq!(kept.get("cache_mode{mode=on}"), 0.0);
    assert_eq!(kept.get("cache_mode{mode=bypass}"), 1.0);
    assert_eq!(kept.get("cache_lookups_total{result=bypassed}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn failed_look_ups_count_by_kind_until_the_breaker_opens() {
    let cache = Cache::default();
    cache.fails(CacheErrorKind::Unreachable);
    let sessions = Sessions::builder(cache.clone(), Store::new()).build().unwrap();
    let (kept, publisher) = published(&sessions);
    for _ in 0..3 {
        assert_eq!(ask(&sessions, 1).await, "valid");
    }
    publisher.publish();
    // A missing connection opens the breaker at once.
    assert_eq!(kept.get("cache_errors_total{operation=look_up,kind=unreachable}"), 1.0);
    assert_eq!(kept.get("cache_lookups_total{result=error}"), 1.0);
    assert_eq!(kept.get("cache_lookups_total{result=skipped}"), 2.0);
    assert_eq!(kept.get("breaker_state{state=closed}"), 0.0);
    assert_eq!(kept.get("breaker_transitions_total{to=open}"), 1.0);
    cache.fails(None);
    sleep(Duration::from_secs(2)).await;
    publisher.publish();
    assert_eq!(kept.get("breaker_state{state=closed}"), 1.0);
    assert_eq!(kept.get("breaker_transitions_total{to=closed}"), 1.0);
}

// Before the first read the age is the time since the start, so that an alert fires.
#[tokio::test(start_paused = true)]
async fn age_of_a_journal_that_is_never_read_rises() {
    let store = Store::shared();
    store.port_calls().break_next("journal", How::Panics, usize::MAX);
    let sessions = Sessions::builder(Cache::default(), store).build().unwrap();
    let (kept, publisher) = published(&sessions);
    sleep(INTERVAL * 9).await;
    publisher.publish();
    assert!(kept.get("journal_age_seconds{}") >= (INTERVAL * 9).as_secs_f64());
    assert!(kept.get("store_errors_total{operation=journal,kind=other}") > 0.0);
}

// No alert on the age fires for a node without traffic.
#[tokio::test(start_paused = true)]
async fn journal_of_a_paused_node_has_no_age() {
    let store = Store::shared();
    let builder = Sessions::builder(Cache::default(), store.clone());
    let sessions = builder.pause_without_traffic(INTERVAL * 2).build().unwrap();
    let (kept, publisher) = published(&sessions);
    sleep(HOUR).await;
    publisher.publish();
    assert_eq!((kept.get("paused{}"), kept.get("journal_age_seconds{}")), (1.0, 0.0));
    // From the next request on it counts from the end of the pause.
    store.port_calls().break_next("journal", How::Panics, usize::MAX);
    assert_eq!(ask(&sessions, 1).await, "valid");
    sleep(INTERVAL).await;
    publisher.publish();
    let age = kept.get("journal_age_seconds{}");
    assert!(age >= INTERVAL.as_secs_f64() && age < HOUR.as_secs_f64(), "{age}");
    assert_eq!(kept.get("paused{}"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn publisher_of_a_dropped_handle_ends() {
    let cache = Cache::default();
    let sessions = Sessions::builder(cache.clone(), Store::new()).build().unwrap();
    let (_kept, publisher) = published(&sessions);
    let publishing = tokio::spawn(publisher.run());
    sleep(HOUR).await;
    assert!(!publishing.is_finished());
    drop(sessions);
    publishing.await.unwrap();
    until("the cache to be dropped", || cache.is_alone()).await;
}

#[tokio::test]
async fn labels_tell_two_handles_apart() {
    let [one, two] =
        [1, 2].map(|_| Sessions::builder(Cache::default(), Store::new()).build().unwrap());
    let kept = Kept::default();
    let [one, two] = metrics::with_local_recorder(&kept, || {
        [(one, "one"), (two, "two")].map(|(sessions, name)| {
            (Publisher::with_labels(&sessions, [("service", name)]), sessions)
        })
    });
    for n in [1, 2] {
        assert_eq!(ask(&one.1, n).await, "valid");
    }
    one.0.publish();
    two.0.publish();
    assert_eq!(kept.get("tokens_read_total{service=one}"), 2.0);
    assert_eq!(kept.get("tokens_read_total{service=two}"), 0.0);
}
