//! The breaker, over a cache that fails and recovers when it is told to.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::{BreakerState, CacheErrorKind, Sessions};
use tokio::time::{Instant, sleep};

use crate::ports::{Cache, HOUR, Store, ask, token, until};

const MS: Duration = Duration::from_millis(1);

fn sessions(cache: &Cache) -> Sessions {
    Sessions::builder(cache.clone(), Store::new()).build()
}

async fn all_valid(sessions: &Sessions, requests: usize) {
    let answers = join_all((0..requests).map(|n| ask(sessions, n))).await;
    assert!(answers.into_iter().all(|answer| answer == "valid"));
}

/// Requests at 1,000 a second until the breaker is in this state; how long that took.
async fn under_load_until(sessions: &Sessions, state: BreakerState) -> Duration {
    let begin = Instant::now();
    while sessions.breaker() != state {
        assert!(begin.elapsed() < 10_000 * MS, "never {state:?}");
        let sessions = sessions.clone();
        tokio::spawn(async move { assert_eq!(ask(&sessions, 1).await, "valid") });
        sleep(MS).await;
    }
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_hangs_is_given_up_within_200_ms_and_then_no_request_waits() {
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
    sleep(60 * MS).await; // those under way
    let (before, begin) = (sessions.metrics(), Instant::now());
    all_valid(&sessions, 1_000).await;
    assert_eq!(begin.elapsed(), Duration::ZERO, "nobody waited");
    let after = sessions.metrics();
    assert_eq!(after.not_asked, before.not_asked + 1_000);
    assert_eq!(after.errors, before.errors + 1_000);
    assert_eq!(after.breaker_opened, 1);
    // It is asked by probes alone, one in 100 ms and what it takes.
    let gets = cache.gets();
    sleep(1_500 * MS).await;
    assert_eq!(cache.gets() - gets, 10);
    assert!(sessions.recent_errors()[0].contains("as the test wants it"));
}

/// An "invalid" is to be told to the cache first. Not at the price of its whole deadline each time.
#[tokio::test(start_paused = true)]
async fn while_the_breaker_is_open_an_invalid_waits_10_ms_for_its_removal() {
    let (cache, store) = (Cache::default(), Store::new());
    store.end(1);
    let sessions = Sessions::builder(cache.clone(), store).build();
    cache.takes(50 * MS);
    let begin = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(
        begin.elapsed(),
        100 * MS,
        "closed: the look-up, the removal"
    );
    cache.fails(CacheErrorKind::Unreachable);
    assert_eq!(ask(&sessions, 2).await, "valid");
    assert_eq!(sessions.breaker(), BreakerState::Open);
    let begin = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(begin.elapsed(), 10 * MS);
    // One that is being found out about answers in time.
    cache.takes(5 * MS);
    cache.fails(None);
    let (begin, asked) = (Instant::now(), cache.invalidations());
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(begin.elapsed(), 5 * MS);
    assert_eq!(cache.invalidations(), asked + 1);
}

/// It has waited for the cache's whole deadline once.
#[tokio::test(start_paused = true)]
async fn after_a_look_up_that_failed_an_invalid_waits_10_ms_for_its_removal() {
    let (cache, store) = (Cache::default(), Store::new());
    store.end(1);
    let sessions = Sessions::builder(cache.clone(), store).build();
    cache.takes(50 * MS);
    cache.fails(CacheErrorKind::TimedOut);
    let begin = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(begin.elapsed(), 60 * MS);
    assert_eq!(sessions.breaker(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_again_soon_after_it_answers() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.fails(CacheErrorKind::Unreachable);
    all_valid(&sessions, 1).await;
    assert_eq!(sessions.breaker(), BreakerState::Open, "at once");
    sleep(5_000 * MS).await;
    cache.fails(None);
    let took = under_load_until(&sessions, BreakerState::Closed).await;
    assert!(took <= 101 * MS, "{took:?}");
    let before = sessions.metrics();
    all_valid(&sessions, 10).await;
    assert_eq!(sessions.metrics().misses, before.misses + 10);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_too_slowly_is_given_up_until_it_is_quick_again() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.takes(30 * MS);
    let took = under_load_until(&sessions, BreakerState::Open).await;
    assert!(took <= 200 * MS, "{took:?}");
    sleep(2_000 * MS).await;
    assert_ne!(sessions.breaker(), BreakerState::Closed);
    assert_eq!(
        sessions.metrics().breaker_opened,
        1,
        "probes don't fall for it"
    );
    assert!(sessions.recent_errors()[0].contains("longer than 20ms"));
    cache.takes(2 * MS);
    under_load_until(&sessions, BreakerState::Closed).await;
}

/// A node that has given it up still tells it of changes: others may be asking it.
#[tokio::test(start_paused = true)]
async fn changes_are_told_to_the_cache_also_while_it_is_open() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.fails(CacheErrorKind::Unreachable);
    all_valid(&sessions, 1).await;
    assert_eq!(sessions.breaker(), BreakerState::Open);
    let _ = sessions.revoke(&token(1)).await.unwrap();
    assert_eq!(cache.invalidations(), 1);
}

/// Every method of a cache bounds itself in time. One that does not leaves the store half of the budget.
#[tokio::test(start_paused = true)]
async fn a_cache_without_a_deadline_costs_half_of_the_budget() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.takes(HOUR);
    let begin = Instant::now();
    all_valid(&sessions, 1).await;
    assert!(begin.elapsed() <= 126 * MS, "{:?}", begin.elapsed());
    assert_eq!(sessions.metrics().errors, 1);
}

#[tokio::test(start_paused = true)]
async fn the_prober_ends_with_the_last_handle() {
    let cache = Cache::default();
    let sessions = sessions(&cache);
    cache.fails(CacheErrorKind::Unreachable);
    all_valid(&sessions, 1).await;
    drop(sessions);
    sleep(200 * MS).await;
    until("the cache to be dropped", || cache.is_alone()).await;
}

/// The prober ends with its runtime; the next request on another one starts it anew.
#[test]
fn it_closes_on_another_runtime() {
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
