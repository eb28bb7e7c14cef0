//! The breaker, over a cache that fails and recovers on demand.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::error::CacheErrorKind;
use session_layer::{BreakerState, Sessions};
use tokio::time::{Instant, sleep};

use crate::ports::{Cache, HOUR, Store, ask, token, until};

const MS: Duration = Duration::from_millis(1);

fn sessions(cache: &Cache) -> Sessions {
    Sessions::builder(cache.clone(), Store::new()).build().unwrap()
}

async fn all_valid(sessions: &Sessions, requests: usize) {
    let answers = join_all((0..requests).map(|n| ask(sessions, n))).await;
    assert!(answers.into_iter().all(|answer| answer == "valid"));
}

/// Sends 1,000 requests a second until the breaker is in this state. Returns how long that took.
async fn under_load_until(sessions: &Sessions, state: BreakerState) -> Duration {
    let begin = Instant::now();
    while sessions.breaker() != state {
        assert!(begin.elapsed() < 10_000 * MS, "the breaker did not become {state:?} within 10 s");
        let sessions = sessions.clone();
        tokio::spawn(async move { assert_eq!(ask(&sessions, 1).await, "valid") });
        sleep(MS).await;
    }
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn hanging_cache_opens_breaker_within_200ms() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    for _ in 0..1_000 {
        all_valid(&sessions, 1).await;
        sleep(MS).await;
    }
    cache.takes(50 * MS);
    cache.fails(CacheErrorKind::TimedOut);
    let took = under_load_until(&sessions, BreakerState::Open).await;
    assert!(took <= 200 * MS, "{took:?}");
    sleep(60 * MS).await; // requests in flight
    let (before, begin) = (sessions.metrics(), Instant::now());
    all_valid(&sessions, 1_000).await;
    assert_eq!(begin.elapsed(), Duration::ZERO, "no request waited");
    let after = sessions.metrics();
    assert_eq!(after.skipped_by_breaker, before.skipped_by_breaker + 1_000);
    assert_eq!(after.errors, before.errors + 1_000);
    assert_eq!(after.breaker_opened, 1);
    // Only probes query it, one per 100 ms plus its duration.
    let gets = cache.count("get");
    sleep(1_500 * MS).await;
    assert_eq!(cache.count("get") - gets, 10);
    assert!(sessions.recent_errors()[0].contains("the test makes this call fail"));
}

// An "invalid" result waits for the removal, but not for the cache's whole deadline each time.
#[tokio::test(start_paused = true)]
async fn invalid_with_open_breaker_waits_10ms_for_removal() {
    let (cache, store) = (Cache::default(), Store::new());
    store.end(1);
    let sessions = Sessions::builder(cache.clone(), store).build().unwrap();
    cache.takes(50 * MS);
    let begin = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(begin.elapsed(), 100 * MS, "closed: the look-up and the removal");
    cache.fails(CacheErrorKind::Unreachable);
    assert_eq!(ask(&sessions, 2).await, "valid");
    assert_eq!(sessions.breaker(), BreakerState::Open);
    let begin = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(begin.elapsed(), 10 * MS);
    // A cache that is being probed responds in time.
    cache.takes(5 * MS);
    cache.fails(None);
    let (begin, asked) = (Instant::now(), cache.count("invalidate"));
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(begin.elapsed(), 5 * MS);
    assert_eq!(cache.count("invalidate"), asked + 1);
}

// The request has already waited for the cache's whole deadline once.
#[tokio::test(start_paused = true)]
async fn invalid_after_failed_look_up_waits_10ms_for_removal() {
    let (cache, store) = (Cache::default(), Store::new());
    store.end(1);
    let sessions = Sessions::builder(cache.clone(), store).build().unwrap();
    cache.takes(50 * MS);
    cache.fails(CacheErrorKind::TimedOut);
    let begin = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(begin.elapsed(), 60 * MS);
    assert_eq!(sessions.breaker(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn breaker_closes_within_101ms_of_recovery() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.fails(CacheErrorKind::Unreachable);
    all_valid(&sessions, 1).await;
    assert_eq!(sessions.breaker(), BreakerState::Open, "one unreachable look-up opens the breaker");
    sleep(5_000 * MS).await;
    cache.fails(None);
    let took = under_load_until(&sessions, BreakerState::Closed).await;
    assert!(took <= 101 * MS, "{took:?}");
    let before = sessions.metrics();
    all_valid(&sessions, 10).await;
    assert_eq!(sessions.metrics().misses, before.misses + 10);
}

#[tokio::test(start_paused = true)]
async fn slow_cache_is_bypassed_until_it_is_fast() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.takes(30 * MS);
    let took = under_load_until(&sessions, BreakerState::Open).await;
    assert!(took <= 200 * MS, "{took:?}");
    sleep(2_000 * MS).await;
    assert_ne!(sessions.breaker(), BreakerState::Closed);
    assert_eq!(sessions.metrics().breaker_opened, 1, "slow probes do not close the breaker");
    assert!(sessions.recent_errors()[0].contains("longer than 20ms"));
    cache.takes(2 * MS);
    under_load_until(&sessions, BreakerState::Closed).await;
}

// A node with an open breaker still sends changes to the cache, because other nodes may use it.
#[tokio::test(start_paused = true)]
async fn changes_reach_the_cache_with_an_open_breaker() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.fails(CacheErrorKind::Unreachable);
    all_valid(&sessions, 1).await;
    assert_eq!(sessions.breaker(), BreakerState::Open);
    let _ = sessions.revoke(&token(1)).await.unwrap();
    assert_eq!(cache.count("invalidate"), 1);
}

// A cache that does not limit the duration of a call leaves the store half of the budget.
#[tokio::test(start_paused = true)]
async fn cache_without_a_deadline_costs_half_the_budget() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.takes(HOUR);
    let begin = Instant::now();
    all_valid(&sessions, 1).await;
    assert!(begin.elapsed() <= 126 * MS, "{:?}", begin.elapsed());
    assert_eq!(sessions.metrics().errors, 1);
}

#[tokio::test(start_paused = true)]
async fn prober_ends_with_the_last_handle() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.fails(CacheErrorKind::Unreachable);
    all_valid(&sessions, 1).await;
    drop(sessions);
    sleep(200 * MS).await;
    until("the cache to be dropped", || cache.is_alone()).await;
}

// The prober ends with its runtime. The next request on another runtime starts it again.
#[test]
fn breaker_closes_on_another_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let cache = Cache::default();
    let first = runtime();
    let sessions = first.block_on(async { sessions(&cache) });
    cache.fails(CacheErrorKind::Unreachable);
    first.block_on(all_valid(&sessions, 1));
    drop(first);
    cache.fails(None);
    runtime().block_on(async {
        assert_eq!(sessions.breaker(), BreakerState::Open);
        under_load_until(&sessions, BreakerState::Closed).await;
    });
}
