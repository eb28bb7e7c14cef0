//! The near cache: what it answers, and what ends an entry of it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{Request, Response};
use session_layer::error::CacheErrorKind;
use session_layer::http::ResponseBody;
use session_layer::{CacheMode, SessionCacheLayer, Sessions, Timestamp, Visibility};
use tokio::time::sleep;
use tower::{Layer as _, Service, service_fn};

use super::own_changes::INTERVAL;
use crate::ports::{Cache, HOUR, Store, ask, entry, session, token, valid};

const TTL: Duration = Duration::from_secs(300);
const MIB: usize = 1 << 20;
const STEP: Duration = Duration::from_millis(5);

/// Returns a node with a near cache, which has read the journal.
async fn node(cache: &Cache, store: &Store) -> Sessions {
    let builder = Sessions::builder(cache.clone(), store.clone()).near_cache(MIB);
    let sessions = builder.journal_interval(INTERVAL).ttl(TTL).build().unwrap();
    sleep(INTERVAL * 3).await;
    sessions
}

/// Returns a node that has the session of token 1 in its near cache.
async fn warm_node() -> (Cache, Store, Sessions) {
    let (cache, store) = (Cache::default(), Store::shared());
    cache.state().server = Some(0);
    let sessions = node(&cache, &store).await;
    valid(&sessions, 1).await;
    (cache, store, sessions)
}

/// Returns a guarded service that responds to each request with 200.
fn guarded(
    sessions: &Sessions,
) -> impl Service<Request<()>, Response = Response<ResponseBody<()>>, Error = Infallible> {
    let inner = |_: Request<()>| ready(Ok::<_, Infallible>(Response::new(())));
    SessionCacheLayer::new(sessions.clone()).server_timing(true).layer(service_fn(inner))
}

/// Validates token 1. Returns the answer, and whether the near cache gave it.
async fn ask_near(sessions: &Sessions) -> (&'static str, bool) {
    let hits = sessions.metrics().near_hits;
    let answer = ask(sessions, 1).await;
    (answer, sessions.metrics().near_hits > hits)
}

#[tokio::test(start_paused = true)]
async fn health_document_shows_its_size_and_hits() {
    let (_cache, _store, sessions) = warm_node().await;
    assert_eq!(ask_near(&sessions).await, ("valid", true));
    let near = sessions.health().await.near_cache.unwrap();
    assert_eq!((near.hits, near.entries), (1, 1));
    assert!(near.bytes > 0 && near.bytes < near.limit_bytes, "{near:?}");
    assert!(near.limit_bytes <= MIB as u64, "{near:?}");

    let without = Sessions::builder(Cache::default(), Store::shared()).build().unwrap();
    assert_eq!(without.health().await.near_cache, None);
}

#[tokio::test(start_paused = true)]
async fn hit_asks_neither_cache_nor_store() {
    let (cache, store, sessions) = warm_node().await;
    let (looked_up, reads) = (cache.count("get"), store.reads().len());
    cache.fails(CacheErrorKind::Unreachable);
    store.state().down = true;
    for _ in 0..3 {
        assert_eq!(ask_near(&sessions).await, ("valid", true));
    }
    assert_eq!((cache.count("get"), store.reads().len()), (looked_up, reads));
    let metrics = sessions.metrics();
    assert_eq!((metrics.near_hits, metrics.hits, metrics.near_entries), (3, 3, 1));
    assert!(metrics.near_bytes > 240, "{}", metrics.near_bytes);
}

#[tokio::test(start_paused = true)]
async fn hit_is_answered_within_call() {
    let (_, _, sessions) = warm_node().await;
    let mut service = guarded(&sessions);
    let mut call = |n| {
        let request = Request::get("/").header("Authorization", format!("Bearer {}", token(n)));
        service.call(request.body(()).unwrap()).now_or_never()
    };
    let response = call(1).unwrap().unwrap();
    let timing = response.headers()["server-timing"].to_str().unwrap();
    assert!(response.status() == 200 && timing.starts_with("session;desc=\"near\""), "{timing}");
    assert!(call(2).is_none(), "another token is looked up");
}

#[tokio::test(start_paused = true)]
async fn caller_in_a_loop_lets_other_tasks_run() {
    let (_, _, sessions) = warm_node().await;
    let mut service = guarded(&sessions);
    let others = Arc::new(AtomicUsize::new(0));
    let count = || {
        let others = Arc::clone(&others);
        tokio::spawn(async move { others.fetch_add(1, Ordering::Relaxed) })
    };
    count();
    for _ in 0..1_000 {
        let request = Request::get("/").header("Authorization", format!("Bearer {}", token(1)));
        service.call(request.body(()).unwrap()).await.unwrap();
    }
    assert_eq!(others.load(Ordering::Relaxed), 1, "beside requests");
    count();
    for _ in 0..1_000 {
        assert_eq!(ask_near(&sessions).await, ("valid", true));
    }
    assert_eq!(others.load(Ordering::Relaxed), 2, "beside validations");
}

#[tokio::test(start_paused = true)]
async fn change_of_this_node_is_visible_at_once() {
    let (_, _, sessions) = warm_node().await;
    let session = valid(&sessions, 1).await;
    let updated = sessions.update(&session, 1).await.unwrap().value;
    let (answer, near) = ask_near(&sessions).await;
    assert_eq!((answer, near, updated.version()), ("valid", false, 2));

    let (_, _, sessions) = warm_node().await;
    let visibility = sessions.revoke(&token(1)).await.unwrap().visibility;
    assert_eq!(sessions.metrics().near_entries, 0, "it was dropped");
    assert_eq!(ask_near(&sessions).await, ("invalid", false));
    assert_eq!(visibility, Visibility::Propagated, "no other node is registered");
}

#[tokio::test(start_paused = true)]
async fn invalid_removes_the_entry() {
    let (_, store, sessions) = warm_node().await;
    store.end(1);
    assert_eq!(ask_near(&sessions).await, ("valid", true), "this node has not learnt it");
    // The near cache does not have the second token, so both are read from the store.
    let mut service = guarded(&sessions);
    let cookies = format!("session={}; session={}", token(1), token(2));
    let request = Request::get("/").header("Cookie", cookies).body(()).unwrap();
    assert_eq!(service.call(request).await.unwrap().status(), 200, "token 2 is valid");
    assert_eq!(ask_near(&sessions).await, ("invalid", false));
}

// Runs Q3c and Q3e of the model: the entry would stay if it was dropped before the UNLINK, or if
// the ticket was taken after the look-up.
#[tokio::test(start_paused = true)]
async fn entry_read_before_the_unlink_is_not_inserted_after_it() {
    let (cache, store) = (Cache::default(), Store::shared());
    cache.state().server = Some(0);
    let sessions = node(&cache, &store).await;
    store.end(1);
    cache.takes(STEP * 5);
    let asking = || {
        let sessions = sessions.clone();
        tokio::spawn(async move { ask(&sessions, 1).await })
    };
    // Its look-up ends at 5 steps, and its UNLINK is executed at 10.
    let first = asking();
    sleep(STEP * 6).await;
    // Redis has an old entry meanwhile, which a look-up finds from 6 steps to 11.
    cache.state().replayed = Some(entry(session(crate::ports::digest(1), "alice", None)));
    let second = asking();
    assert_eq!(first.await.unwrap(), "invalid");
    assert_eq!(second.await.unwrap(), "valid", "it began before the other had returned");
    cache.state().replayed = None;
    assert_eq!(ask_near(&sessions).await, ("invalid", false));
}

// Several handles may use one such store, and no journal tells one what another changes.
#[tokio::test(start_paused = true)]
async fn store_without_a_journal_has_none() {
    let (cache, store) = (Cache::default(), Store::new());
    cache.state().kept = Some(HashMap::new());
    let sessions = node(&cache, &store).await;
    for _ in 0..3 {
        assert_eq!(ask_near(&sessions).await, ("valid", false));
    }
    assert_eq!(sessions.metrics().near_entries, 0);
}

#[tokio::test(start_paused = true)]
async fn bypass_empties_it() {
    let (_, _, sessions) = warm_node().await;
    sessions.set_mode(CacheMode::Bypass);
    assert_eq!(sessions.metrics().near_entries, 0);
    assert_eq!(ask_near(&sessions).await, ("valid", false));
    assert_eq!(sessions.metrics().near_entries, 0, "nothing is kept in bypass");
    sessions.set_mode(CacheMode::On);
    assert_eq!(ask_near(&sessions).await, ("valid", false));
    assert_eq!(ask_near(&sessions).await, ("valid", true));
}

// The age of an entry is that of the read, on whichever node. An entry that counted from its
// insertion here would be served for almost two TTLs.
#[tokio::test(start_paused = true)]
async fn ttl_counts_from_the_read_of_the_store() {
    let (cache, store) = (Cache::default(), Store::shared());
    cache.state().server = Some(0);
    let sessions = node(&cache, &store).await;
    let session = session(crate::ports::digest(1), "alice", None);
    let before = |span: Duration| {
        let now = Timestamp::now().as_micros();
        Timestamp::from_micros(now - i64::try_from(span.as_micros()).unwrap())
    };
    let mut old = entry(session);
    (old.read_at, old.not_after) = (before(TTL - INTERVAL * 20), Timestamp::now().after(HOUR));
    cache.state().replayed = Some(old);
    assert_eq!(ask_near(&sessions).await, ("valid", false), "a hit of the shared cache");
    cache.state().replayed = None;
    assert_eq!(ask_near(&sessions).await, ("valid", true));
    store.state().ahead = INTERVAL * 21;
    sleep(INTERVAL * 2).await;
    assert_eq!(ask_near(&sessions).await, ("valid", false), "its TTL has passed");
}

#[tokio::test(start_paused = true)]
async fn entry_of_another_life_of_the_store_is_rejected() {
    let (_, store, sessions) = warm_node().await;
    assert_eq!(ask_near(&sessions).await, ("valid", true));
    // Postgres has restarted: the journal is of another life, and may lack changes.
    store.state().journal_elsewhere = true;
    sleep(INTERVAL * 2).await;
    let (_, near) = ask_near(&sessions).await;
    assert!(!near);
    assert_eq!(sessions.metrics().near_entries, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_served_before_the_journal_is_read_and_the_node_registered() {
    let (cache, store) = (Cache::default(), Store::shared());
    cache.state().server = Some(0);
    store.state().refuses_nodes = true;
    let sessions = node(&cache, &store).await;
    for _ in 0..3 {
        assert_eq!(ask_near(&sessions).await, ("valid", false));
    }
    store.state().refuses_nodes = false;
    sleep(INTERVAL * 3).await;
    assert_eq!(ask_near(&sessions).await, ("valid", true));
}

// A change is `Propagated` only if all nodes are registered with one cache. The near cache of
// another node is one that no removal reaches.
#[tokio::test(start_paused = true)]
async fn each_node_registers_a_cache_of_its_own() {
    let (cache, store) = (Cache::default(), Store::shared());
    cache.state().server = Some(0);
    let nodes = [node(&cache, &store).await, node(&cache, &store).await];
    let without = Sessions::builder(cache, store.clone()).journal_interval(INTERVAL).build();
    sleep(INTERVAL * 3).await;
    let registered: Vec<_> = store.state().nodes.iter().map(|node| node.cache).collect();
    assert_eq!(registered.len(), 3);
    assert!(registered[0] != registered[1] && !registered[..2].contains(&registered[2]));
    drop((nodes, without));
}
