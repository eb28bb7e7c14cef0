//! Touches before the response, over a store that holds them.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::Sessions;
use session_layer::cache::NoCache;
use tokio::time::Instant;

use crate::ports::{HOUR, Store, ask, until};

const BUDGET: Duration = Duration::from_millis(250);

fn due() -> (Store, Sessions) {
    let store = Store::new();
    store.state().idle = Some(HOUR);
    let sessions = Sessions::builder(NoCache, store.clone()).validation_timeout(BUDGET);
    (store, sessions.build().unwrap())
}

// The read has proved that the session is active. A locked row or a slow store changes nothing.
#[tokio::test(start_paused = true)]
async fn slow_touch_does_not_delay_the_response() {
    let (store, sessions) = due();
    let began = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(began.elapsed(), BUDGET / 5);
    assert_eq!(store.count("touch"), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_cause_one_touch() {
    let (store, sessions) = due();
    let asking = |n| {
        let sessions = sessions.clone();
        tokio::spawn(async move { ask(&sessions, n).await })
    };
    let first: Vec<_> = (0..50).map(|_| asking(1)).collect();
    for answer in join_all(first).await {
        assert_eq!(answer.unwrap(), "valid");
    }
    assert_eq!(store.count("touch"), 1);
    // While the touch is in flight, no request waits.
    let began = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!((store.count("touch"), began.elapsed()), (1, Duration::ZERO));
    // The touch found the row locked, and the next one tries again.
    store.let_touches_pass(1);
    tokio::time::sleep(BUDGET).await;
    let again = asking(1);
    until("another touch", || store.count("touch") == 2).await;
    assert_eq!(again.await.unwrap(), "valid");
}

// Otherwise a session would expire although it is used, if other sessions are used at the same
// time. No request waits, and one touch is in flight, however many sessions are due.
#[tokio::test(start_paused = true)]
async fn use_during_a_touch_is_recorded_after_it() {
    let (store, sessions) = due();
    assert_eq!(ask(&sessions, 1).await, "valid");
    let began = Instant::now();
    for n in 2..6 {
        assert_eq!(ask(&sessions, n).await, "valid");
    }
    assert_eq!((store.count("touch"), began.elapsed()), (1, Duration::ZERO));
    for passed in 1..5 {
        store.let_touches_pass(1);
        until("the next touch", || store.count("touch") == passed + 1).await;
    }
    store.let_touches_pass(1);
    tokio::time::sleep(BUDGET).await;
    assert_eq!(store.count("touch"), 5, "one touch per session");
}

// This holds for any store.
#[tokio::test(start_paused = true)]
async fn hanging_touch_does_not_block_the_next() {
    let (store, sessions) = due();
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(ask(&sessions, 2).await, "valid");
    assert_eq!(store.count("touch"), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(store.count("touch"), 2);
    let errors = sessions.recent_errors().join("\n");
    assert!(errors.contains("touching a session"), "{errors}");
}
