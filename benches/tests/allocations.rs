//! How often a validation allocates. The counts are exact, so a change that adds one fails here.

use std::alloc::System;
use std::convert::Infallible;

use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use session_benches::Service;
use session_layer::cache::RedisCache;
use session_layer::store::PostgresStore;
use session_layer::{ConfigError, NewSession, SessionCacheLayer, Sessions, Validation};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::sync::Mutex;
use tower::{Layer as _, Service as _, service_fn};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Held by a test, because the allocator counts for the whole process.
static COUNTING: Mutex<()> = Mutex::const_new(());

/// Requests that are in flight at once.
const CALLERS: usize = 64;
const ROUNDS: usize = 50;

/// Returns a node with a near cache over the servers of `service`.
fn with_a_near_cache(service: &Service) -> Result<Sessions, ConfigError> {
    let sandbox = &service.sandbox;
    let cache = RedisCache::builder(sandbox.redis_url()).namespace(sandbox.namespace());
    let store = PostgresStore::builder(sandbox.database_url()).schema(sandbox.schema());
    Sessions::builder(cache.build()?, store.build()?).near_cache(64 << 20).build()
}

/// Returns the number of allocations of a request, those of the request itself included. The round
/// with the fewest is without work in the background, and a change that adds one adds it there too.
async fn allocations(sessions: &Sessions, token: &str) -> f64 {
    let layer = SessionCacheLayer::new(sessions.clone());
    let inner = |_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(())));
    let service = layer.layer(service_fn(inner));
    let header = HeaderValue::try_from(format!("Bearer {token}")).expect("a token is a header");
    let request = || {
        let (mut service, header) = (service.clone(), header.clone());
        async move {
            let mut request = Request::new(());
            request.headers_mut().insert(AUTHORIZATION, header);
            service.call(request).await.is_ok_and(|response| response.status().is_success())
        }
    };
    let round = || async { join_all((0..CALLERS).map(|_| request())).await };
    // The buffers of the client grow once.
    round().await;
    let (mut fewest, mut hit_rounds) = (usize::MAX, 0);
    while hit_rounds < ROUNDS {
        let hits = sessions.metrics().hits;
        let region = Region::new(ALLOCATOR);
        assert!(round().await.into_iter().all(|valid| valid));
        let in_round = region.change().allocations;
        // On a busy machine Redis may miss a deadline, and Postgres then answers.
        if sessions.metrics().hits - hits == CALLERS as u64 {
            fewest = fewest.min(in_round);
            hit_rounds += 1;
        }
    }
    fewest as f64 / CALLERS as f64
}

/// Registers the metrics with a recorder, which a hit never calls: the bounds below hold with and
/// without it.
#[cfg(feature = "metrics")]
fn register_metrics(sessions: &Sessions) -> session_layer::metrics::Publisher {
    use metrics_exporter_prometheus::PrometheusBuilder;

    static INSTALL: std::sync::Once = std::sync::Once::new();
    INSTALL.call_once(|| {
        PrometheusBuilder::new().install_recorder().expect("there is no other recorder");
    });
    session_layer::metrics::Publisher::new(sessions)
}

#[tokio::test]
async fn hit_allocates_little() {
    let _alone = COUNTING.lock().await;
    let service = Service::start().await.expect("the servers start");
    #[cfg(feature = "metrics")]
    let publishers = [&service.sessions, &service.sealed].map(register_metrics);
    let plain = allocations(&service.sessions, service.warm.token.reveal()).await;
    let sealed = allocations(&service.sealed, service.warm_sealed.token.reveal()).await;
    println!("{plain:.2} allocations per hit, {sealed:.2} sealed");
    // A batch of 64 has 20 of its own. The request and this test have 3, the extensions 4, the
    // response's header fields 2, the session 2, and the look-up 3.
    assert!(plain < 14.5, "{plain}");
    // It is decrypted in place.
    assert!(sealed < 14.6, "{sealed}");
    #[cfg(feature = "metrics")]
    assert!(publishers.iter().all(session_layer::metrics::Publisher::publish));

    let near = with_a_near_cache(&service).expect("the settings are allowed");
    while near.metrics().near_hits == 0 {
        // On a busy machine a validation may miss its deadline.
        let _ = near.validate(service.warm.token.reveal()).await;
    }
    let near = allocations(&near, service.warm.token.reveal()).await;
    println!("{near:.2} allocations per near hit");
    // The request and this test have 3, the extensions 4, and the response's header fields 2.
    assert!(near < 9.1, "{near}");
}

/// Sessions that are read into a near cache to measure its memory.
const SESSIONS: u64 = 2_000;

// The bound is in bytes of the process, so an entry must count as what it takes.
#[tokio::test]
async fn near_entry_weighs_what_it_takes() {
    let _alone = COUNTING.lock().await;
    let service = Service::start().await.expect("the servers start");
    let sessions = with_a_near_cache(&service).expect("the settings are allowed");
    let mut tokens = Vec::new();
    for n in 0..SESSIONS {
        let new = NewSession::new(format!("user-{n}")).data("d".repeat(198));
        tokens.push(sessions.create(new).await.expect("a login").token);
    }
    let region = Region::new(ALLOCATOR);
    for token in &tokens {
        while !matches!(sessions.validate(token).await, Validation::Valid(_)) {}
    }
    let change = region.change();
    let taken = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
    let metrics = sessions.metrics();
    assert_eq!(metrics.near_entries, SESSIONS);
    let (taken, weight) = (taken / SESSIONS as f64, metrics.near_bytes as f64 / SESSIONS as f64);
    println!("{taken:.0} bytes for an entry with 200 bytes of data, which counts as {weight:.0}");
    // The tables double as they grow, and how full they are depends on the number of shards.
    assert!(taken < weight * 1.25, "{taken} {weight}");
    assert!(weight < taken * 1.25, "{taken} {weight}");
    // What is allocated beside them in that time does not count.
    assert!(weight <= 450.0, "{weight}");
}

/// Returns the bytes that Redis takes for the entry of a new session with 200 bytes of data.
async fn redis_bytes(service: &Service, sessions: &Sessions, namespace: &str) -> u64 {
    let new = NewSession::new("user-1").data("d".repeat(198));
    let token = sessions.create(new).await.expect("a login").token;
    let client = redis::Client::open(service.sandbox.redis_url()).expect("a URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("a connection");
    let hits = sessions.metrics().hits;
    while sessions.metrics().hits == hits {
        assert!(matches!(sessions.validate(&token).await, Validation::Valid(_)));
    }
    let key = session_benches::key(namespace, &token.digest());
    let usage = redis::cmd("MEMORY").arg("USAGE").arg(key).query_async::<u64>(&mut redis).await;
    usage.expect("the entry is there")
}

#[tokio::test]
async fn entry_takes_little_memory_of_redis() {
    let _alone = COUNTING.lock().await;
    let service = Service::start().await.expect("the servers start");
    let namespace = service.sandbox.namespace();
    let plain = redis_bytes(&service, &service.sessions, namespace).await;
    let sealed = redis_bytes(&service, &service.sealed, &format!("{namespace}:sealed")).await;
    println!("{plain} bytes of Redis for an entry with 200 bytes of data, {sealed} sealed");
    assert!(plain <= 450 && sealed <= 530, "{plain} {sealed}");
}
