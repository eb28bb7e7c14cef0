//! What requests notice of a Redis that is stopped or slow, counted: a request that did not ask
//! Redis did not wait for it.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::health::HealthStatus;
use session_layer::{BreakerState, Created, Metrics, Sessions, Visibility};
use session_testkit::backends::Sandbox;
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Failure, Outcome, shared};
use crate::support::{OwnRedis, SOON, ask, cache_within, login, store, until_hit};

/// Far more than Redis needs on a busy machine, and far less than it is slowed down by.
const SLOW: Duration = Duration::from_millis(250);
const TOO_SLOW: Duration = Duration::from_millis(500);

fn sessions(
    redis_url: &str,
    sandbox: &Sandbox,
    deadline: Duration,
) -> impl Future<Output = Result<Sessions, Failure>> {
    let cache = cache_within(deadline, redis_url, sandbox);
    async move {
        Ok(Sessions::builder(cache?, store(sandbox).await?)
            .validation_timeout(Duration::from_secs(20))
            .slow_lookup_threshold(SLOW)
            .build()?)
    }
}

/// Look-ups that were sent to Redis and failed. Of these alone it can be that they waited.
fn asked_in_vain(metrics: &Metrics) -> u64 {
    metrics.errors - metrics.skipped_by_breaker
}

/// Twenty requests at a time until the breaker has opened. All are answered "valid".
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

/// A thousand requests, none of which waits for Redis.
async fn nobody_asks(sessions: &Sessions, alice: &Created) {
    let before = sessions.metrics();
    for _ in 0..50 {
        all_valid(sessions, alice, 20).await;
    }
    let after = sessions.metrics();
    assert_eq!(after.skipped_by_breaker, before.skipped_by_breaker + 1_000, "{after:?}");
    assert_eq!(asked_in_vain(&after), asked_in_vain(&before), "{after:?}");
}

async fn until_closed(sessions: &Sessions) -> Outcome {
    wait::until("the breaker to close", SOON, async || sessions.breaker() == BreakerState::Closed)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_paused_opens_the_breaker_until_it_resumes() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = sessions(own.redis.url(), &own.sandbox, TOO_SLOW).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let paused = own.redis.pause().await?;
    under_load_until_open(&sessions, &alice).await?;
    // Those under way waited for one deadline, and the rest found no connection that answers.
    let waited = asked_in_vain(&sessions.metrics());
    assert!((10..=60).contains(&waited), "{waited} requests asked it");
    nobody_asks(&sessions, &alice).await;
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
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = sessions(own.redis.url(), &own.sandbox, TOO_SLOW).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    own.redis.kill().await?;
    under_load_until_open(&sessions, &alice).await?;
    nobody_asks(&sessions, &alice).await;
    own.redis.restart().await?;
    until_closed(&sessions).await?;
    until_hit(&sessions, &alice).await?;
    Ok(())
}

/// It answers within its deadline, and later than Postgres would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_slower_than_postgres_opens_the_breaker() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let proxy = Proxy::start(own.redis.address()).await?;
    let url = proxy.url(own.redis.url());
    let sessions = sessions(&url, &own.sandbox, Duration::from_secs(5)).await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    let errors = sessions.metrics().errors;
    let slow = proxy.inject(Toxic::latency(TOO_SLOW, Duration::ZERO));
    under_load_until_open(&sessions, &alice).await?;
    assert!(sessions.cache_status().connected, "its links are good");
    let metrics = sessions.metrics();
    assert_eq!(metrics.errors - errors, metrics.skipped_by_breaker, "none failed");
    nobody_asks(&sessions, &alice).await;
    // Probes find it slow as well, so it stays open; and changes reach it all the same.
    wait::until("a probe", SOON, async || {
        let told = sessions.recent_errors();
        told.iter().any(|error| error.contains("take longer than"))
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
