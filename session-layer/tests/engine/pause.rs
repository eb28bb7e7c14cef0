//! The pause without traffic: what a paused node sends, and what it serves when it wakes.

use std::time::Duration;

use session_layer::cache::NoCache;
use session_layer::health::HealthStatus;
use session_layer::{NewSession, PartitionPolicy, Sessions, SessionsBuilder};
use tokio::time::sleep;

use super::own_changes::INTERVAL;
use crate::ports::{Cache, HOUR, How, Store, ask, token, until, valid};

const AFTER: Duration = Duration::from_secs(60);
/// After this time a node without requests is paused, and every loop rests.
const PAUSED: Duration = Duration::from_secs(63);
const MIB: usize = 1 << 20;

fn builder(cache: &Cache, store: &Store) -> SessionsBuilder<Cache, Store> {
    Sessions::builder(cache.clone(), store.clone())
        .journal_interval(INTERVAL)
        .pause_without_traffic(AFTER)
}

/// Returns a node that has read the journal, with an entry of token 1 in its cache.
async fn started(build: impl FnOnce(SessionsBuilder<Cache, Store>) -> Sessions) -> Node {
    let (cache, store) = (Cache::default(), Store::shared());
    cache.state().server = Some(0);
    let sessions = build(builder(&cache, &store));
    sleep(INTERVAL * 3).await;
    let session = valid(&sessions, 1).await;
    cache.put_back(&session, 1);
    assert!(is_hit(&sessions).await);
    Node { cache, store, sessions }
}

struct Node {
    cache: Cache,
    store: Store,
    sessions: Sessions,
}

impl Node {
    async fn new() -> Self {
        started(|builder| builder.build().unwrap()).await
    }

    async fn pause(&self) {
        assert!(!self.sessions.metrics().paused);
        sleep(PAUSED).await;
        let metrics = self.sessions.metrics();
        assert!(metrics.paused && metrics.journal_age.is_none(), "{metrics:?}");
    }

    /// Returns the calls of the store so far that send something to it.
    fn sent(&self) -> Vec<&'static str> {
        let mut calls = self.store.port_calls().made();
        calls.retain(|call| *call != "close_idle");
        calls
    }
}

/// Validates token 1, which is valid. Returns whether an entry was served.
async fn is_hit(sessions: &Sessions) -> bool {
    let hits = sessions.metrics().hits;
    assert_eq!(ask(sessions, 1).await, "valid");
    sessions.metrics().hits > hits
}

#[tokio::test(start_paused = true)]
async fn paused_node_sends_nothing_to_the_store() {
    let node = Node::new().await;
    assert_eq!(node.sessions.health().await.status, HealthStatus::Healthy);
    node.pause().await;
    let sent = node.sent();
    for _ in 0..100 {
        sleep(HOUR).await;
        let health = node.sessions.health().await;
        assert!(health.paused);
    }
    assert_eq!(node.sent(), sent);
    assert_eq!(node.store.port_calls().made().last(), Some(&"close_idle"));
    // The first request is answered by the store, and the next ones by the cache again.
    node.cache.put_back(&valid(&node.sessions, 1).await, 1);
    assert!(!node.sessions.metrics().paused);
    sleep(INTERVAL).await;
    assert!(is_hit(&node.sessions).await);
    let reads = node.sessions.metrics().journal_reads;
    sleep(INTERVAL * 10).await;
    assert_eq!(node.sessions.metrics().journal_reads, reads + 10);
    node.pause().await;
}

// A probe, or a statement that was in flight, leaves its connection idle later.
#[tokio::test(start_paused = true)]
async fn connections_that_become_idle_in_a_pause_are_closed_too() {
    let node = Node::new().await;
    node.pause().await;
    let before = node.store.count("close_idle");
    sleep(Duration::from_secs(31)).await;
    assert!(node.store.count("close_idle") > before);
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_request_keeps_a_node_awake() {
    let node = Node::new().await;
    let sessions = &node.sessions;
    let session = valid(sessions, 1).await;
    for round in 0..12 {
        sleep(AFTER / 2).await;
        match round % 6 {
            0 => assert!(is_hit(sessions).await),
            1 => drop(sessions.begin_login().await.unwrap()),
            2 => drop(sessions.create(NewSession::new("bob")).await.unwrap()),
            3 => drop(sessions.list("bob").await.unwrap()),
            4 => drop(sessions.revoke(&token(2)).await.unwrap()),
            _ => drop(sessions.update(&session, 1).await.unwrap()),
        }
        sleep(AFTER / 2).await;
        assert!(!sessions.metrics().paused, "{round}");
        node.cache.put_back(&valid(sessions, 1).await, 2);
    }
    node.pause().await;
}

// The node is not partitioned, so that the policy `available` permits nothing.
#[tokio::test(start_paused = true)]
async fn node_that_wakes_serves_nothing_before_it_has_read_the_journal() {
    for policy in [PartitionPolicy::Available, PartitionPolicy::FailClosed] {
        for near in [0, MIB] {
            let node =
                started(|builder| builder.policy(policy).near_cache(near).build().unwrap()).await;
            node.pause().await;
            node.store.port_calls().break_next("journal", How::Panics, usize::MAX);
            for _ in 0..10 {
                assert!(!is_hit(&node.sessions).await, "{policy:?} {near}");
                sleep(INTERVAL).await;
            }
            node.store.port_calls().repair();
            sleep(INTERVAL * 2).await;
            assert!(is_hit(&node.sessions).await, "{policy:?} {near}");
        }
    }
}

// Other nodes do not count on it meanwhile: a change may have been `Propagated`.
#[tokio::test(start_paused = true)]
async fn node_that_wakes_registers_before_it_serves() {
    let node = Node::new().await;
    let before = node.store.state().nodes.clone();
    assert_eq!(before.len(), 1);
    node.pause().await;
    assert_eq!(node.store.state().nodes, []);
    node.store.state().refuses_nodes = true;
    let reads = node.sessions.metrics().journal_reads;
    for _ in 0..10 {
        assert!(!is_hit(&node.sessions).await);
        sleep(INTERVAL).await;
    }
    assert!(node.sessions.metrics().journal_reads > reads);
    node.store.state().refuses_nodes = false;
    sleep(INTERVAL * 2).await;
    assert!(is_hit(&node.sessions).await);
    let after = node.store.state().nodes.clone();
    assert_eq!(after.len(), 1);
    assert_ne!(after[0].id, before[0].id);
}

#[tokio::test(start_paused = true)]
async fn session_that_ended_during_the_pause_is_rejected_by_the_first_request() {
    for near in [0, MIB] {
        let node = started(|builder| builder.near_cache(near).build().unwrap()).await;
        node.pause().await;
        // The entry is still in the cache.
        node.store.end(1);
        assert_eq!(ask(&node.sessions, 1).await, "invalid", "{near}");
    }
}

#[tokio::test(start_paused = true)]
async fn read_in_flight_when_the_pause_begins_permits_no_hit_after_it() {
    let node = Node::new().await;
    // It hangs until long after the pause has begun, and is then cancelled.
    node.store.port_calls().break_next("journal", How::Hangs, 1);
    sleep(PAUSED * 2).await;
    assert!(node.sessions.metrics().paused);
    node.store.port_calls().break_next("journal", How::Panics, usize::MAX);
    for _ in 0..10 {
        assert!(!is_hit(&node.sessions).await);
        sleep(INTERVAL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn paused_node_is_healthy_and_ready_while_the_store_sleeps() {
    let node = Node::new().await;
    assert_eq!(node.sessions.health().await.status, HealthStatus::Healthy);
    node.pause().await;
    sleep(AFTER).await;
    node.store.state().down = true;
    let health = node.sessions.health().await;
    assert_eq!((health.status, &health.errors), (HealthStatus::Healthy, &Vec::new()));
    assert!(health.paused && health.session_store.healthy && !health.postgres.connected);
    assert_eq!(health.journal.unwrap().age_ms, None);
    // A request finds that it is down.
    node.cache.state().replayed = None;
    assert_eq!(ask(&node.sessions, 1).await, "unavailable");
    let health = node.sessions.health().await;
    assert!(!health.paused && !health.session_store.healthy);
    assert_eq!(health.status, HealthStatus::Degraded);
}

// Otherwise a node that reaches nothing would become ready by being paused.
#[tokio::test(start_paused = true)]
async fn paused_node_whose_last_probe_failed_is_probed_until_one_succeeds() {
    let node = Node::new().await;
    node.store.state().down = true;
    assert!(!node.sessions.health().await.session_store.healthy);
    node.pause().await;
    let health = node.sessions.health().await;
    assert!(!health.session_store.healthy && !health.paused, "{health:?}");
    node.store.state().down = false;
    assert!(node.sessions.health().await.session_store.healthy);
    // Now it may sleep.
    let sent = node.sent().len();
    assert!(node.sessions.health().await.paused);
    assert_eq!(node.sent()[sent..], [""; 0]);
}

// A connection may still lead to the old server of a cut-over. The first request after a pause must
// not believe it, although the journal is not read yet.
#[tokio::test(start_paused = true)]
async fn read_of_another_life_after_a_pause_is_unavailable() {
    let node = Node::new().await;
    node.store.state().journal_elsewhere = true;
    sleep(INTERVAL * 2).await;
    node.pause().await;
    node.store.port_calls().break_next("journal", How::Hangs, usize::MAX);
    assert_eq!(ask(&node.sessions, 2).await, "unavailable");
}

#[tokio::test(start_paused = true)]
async fn paused_node_shuts_down_without_a_call() {
    let node = Node::new().await;
    // Its registration stays in the store, and expires there.
    node.store.port_calls().break_next("forget", How::Panics, usize::MAX);
    node.pause().await;
    assert_eq!(node.store.state().nodes.len(), 1);
    let sent = node.sent().len();
    node.sessions.shutdown(INTERVAL).await.unwrap();
    assert_eq!(node.sent()[sent..], ["close"]);
}

// A store that has never replied is probed twice a second, and one without a cache is cleaned.
#[tokio::test(start_paused = true)]
async fn pause_also_ends_probes_and_housekeeping() {
    let store = Store::shared();
    store.state().down = true;
    let builder = Sessions::builder(NoCache, store.clone());
    let sessions = builder.pause_without_traffic(AFTER).build().unwrap();
    sleep(PAUSED).await;
    assert!(sessions.metrics().paused);
    assert!(store.count("learn") > 0 && store.count("journal") == 0);
    let sent = ["learn", "purge", "sweep"].map(|call| store.count(call));
    sleep(HOUR).await;
    assert_eq!(["learn", "purge", "sweep"].map(|call| store.count(call)), sent);
    store.state().down = false;
    assert_eq!(ask(&sessions, 1).await, "valid");
    until("housekeeping", || store.count("purge") > 0).await;
}

#[tokio::test(start_paused = true)]
async fn node_pauses_only_if_it_is_set_and_others_use_the_store() {
    let (cache, shared, exclusive) = (Cache::default(), Store::shared(), Store::new());
    let unset = Sessions::builder(cache.clone(), shared.clone()).build().unwrap();
    let alone = builder(&cache, &exclusive).build().unwrap();
    sleep(HOUR).await;
    assert!(!unset.metrics().paused && !alone.metrics().paused);
    assert!(shared.count("journal") > 7_000 && exclusive.count("purge") > 50);
}
