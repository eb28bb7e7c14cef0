//! The breaker beside a stopped or slow Redis. The tests count look-ups: a request that did not
//! query Redis did not wait for it.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::health::HealthStatus;
use session_layer::{BreakerState, Created, Metrics, Sessions, Visibility};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, cache_within, login, until_hit};

/// Far longer than a look-up on a busy machine, and far shorter than the injected latency.
const SLOW: Duration = Duration::from_millis(250);
const TOO_SLOW: Duration = Duration::from_millis(500);

/// Creates a node whose look-ups have this deadline, and a session that it serves from Redis.
async fn cached(
    servers: &Servers,
    redis_url: &str,
    deadline: Duration,
) -> Result<(Sessions, Created), Failure> {
    let cache = cache_within(deadline, redis_url, &servers.sandbox)?;
    let sessions = Sessions::builder(cache, servers.store().await?)
        .validation_timeout(Duration::from_secs(20))
        .slow_lookup_threshold(SLOW)
        .build()?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    Ok((sessions, alice))
}

/// Returns the number of failed look-ups that were sent to Redis. Only these can have waited.
fn failed_look_ups(metrics: &Metrics) -> u64 {
    metrics.errors - metrics.skipped_by_breaker
}

/// Sends twenty requests at a time until the breaker has opened. All return "valid".
async fn under_load_until_open(sessions: &Sessions, alice: &Created) -> Outcome {
    wait::until("the breaker to open", SOON, async || {
        all_valid(sessions, alice, 20).await;
        sessions.breaker() != BreakerState::Closed
    })
    .await?;
    Ok(())
}

async fn all_valid(sessions: &Sessions, alice: &Created, requests: usize) {
    let answers = join_all((0..requests).map(|_| ask(sessions, alice))).await;
    assert!(answers.iter().all(|answer| *answer == "valid"), "{answers:?}");
}

/// Asserts that none of a thousand requests waits for Redis.
async fn assert_not_queried(sessions: &Sessions, alice: &Created) {
    let before = sessions.metrics();
    for _ in 0..50 {
        all_valid(sessions, alice, 20).await;
    }
    let after = sessions.metrics();
    assert_eq!(after.skipped_by_breaker, before.skipped_by_breaker + 1_000, "{after:?}");
    assert_eq!(failed_look_ups(&after), failed_look_ups(&before), "{after:?}");
}

async fn until_closed(sessions: &Sessions) -> Outcome {
    wait::until("the breaker to close", SOON, async || sessions.breaker() == BreakerState::Closed)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_paused_opens_the_breaker_until_it_resumes() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = cached(&servers, servers.redis.url(), TOO_SLOW).await?;
    let paused = servers.redis.pause().await?;
    under_load_until_open(&sessions, &alice).await?;
    // Requests in flight waited for one deadline. Later ones found no connection that responds.
    let waited = failed_look_ups(&sessions.metrics());
    assert!((10..=60).contains(&waited), "{waited} requests queried it");
    assert_not_queried(&sessions, &alice).await;
    let health = sessions.health().await;
    assert_ne!(health.breaker.state, BreakerState::Closed);
    assert_eq!(health.breaker.opened, 1);
    assert_ne!(health.status, HealthStatus::Healthy);
    paused.resume().await?;
    until_closed(&sessions).await?;
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load_opens_the_breaker() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = cached(&servers, servers.redis.url(), TOO_SLOW).await?;
    servers.redis.kill().await?;
    under_load_until_open(&sessions, &alice).await?;
    assert_not_queried(&sessions, &alice).await;
    servers.redis.restart().await?;
    until_closed(&sessions).await?;
    until_hit(&sessions, &alice).await?;
    Ok(())
}

// Redis responds within its deadline, but later than Postgres would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_slower_than_postgres_opens_the_breaker() -> Outcome {
    let servers = Servers::own_redis().await?;
    let proxy = Proxy::start(servers.redis.address()).await?;
    let url = proxy.url(servers.redis.url());
    let (sessions, alice) = cached(&servers, &url, Duration::from_secs(5)).await?;
    let bob = login(&sessions, "bob").await?;
    let errors = sessions.metrics().errors;
    let slow = proxy.inject(Toxic::latency(TOO_SLOW, Duration::ZERO));
    under_load_until_open(&sessions, &alice).await?;
    assert!(sessions.cache_status().connected, "the links respond");
    let metrics = sessions.metrics();
    assert_eq!(metrics.errors - errors, metrics.skipped_by_breaker, "none failed");
    assert_not_queried(&sessions, &alice).await;
    // Probes are slow as well, therefore it stays open. Changes are still sent.
    wait::until("a probe", SOON, async || {
        let errors = sessions.recent_errors();
        errors.iter().any(|error| error.contains("take longer than"))
    })
    .await?;
    let changed = sessions.revoke(bob.token.reveal()).await?;
    assert_eq!(changed.visibility, Visibility::Propagated);
    assert_ne!(sessions.health().await.status, HealthStatus::Healthy);
    assert_ne!(sessions.breaker(), BreakerState::Closed);
    slow.heal();
    until_closed(&sessions).await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    Ok(())
}
