//! Touches before the answer, over a store that holds them.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::Sessions;
use session_layer::cache::NoCache;
use tokio::time::Instant;

use crate::ports::{HOUR, Store, ask, until};

const BUDGET: Duration = Duration::from_millis(250);

fn due() -> (Store, Sessions) {
    let store = Store::new();
    store.due(HOUR);
    let sessions = Sessions::builder(NoCache, store.clone()).budget(BUDGET);
    (store, sessions.build())
}

/// The read has said that it is alive; a row that is locked, or a store that takes its time with a change, is no
/// reason to say anything else.
#[tokio::test(start_paused = true)]
async fn a_touch_that_takes_long_keeps_no_answer_waiting() {
    let (store, sessions) = due();
    let began = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(began.elapsed(), BUDGET / 5);
    assert_eq!(store.touches(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_many_requests_one_touches() {
    let (store, sessions) = due();
    let asking = |n| {
        let sessions = sessions.clone();
        tokio::spawn(async move { ask(&sessions, n).await })
    };
    let first: Vec<_> = (0..50).map(|_| asking(1)).collect();
    for answer in join_all(first).await {
        assert_eq!(answer.unwrap(), "valid");
    }
    assert_eq!(store.touches(), 1);
    // As long as it goes on, nobody waits.
    let began = Instant::now();
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!((store.touches(), began.elapsed()), (1, Duration::ZERO));
    // It found the row locked, so the next one tries again.
    store.let_touches_pass(1);
    tokio::time::sleep(BUDGET).await;
    let again = asking(1);
    until("another touch", || store.touches() == 2).await;
    assert_eq!(again.await.unwrap(), "valid");
}

/// Else a session that is used when others are would end in spite of it. Nobody waits for it, and one is under way
/// at a time, however many sessions are due.
#[tokio::test(start_paused = true)]
async fn a_use_that_comes_while_another_is_noted_is_noted_after_it() {
    let (store, sessions) = due();
    assert_eq!(ask(&sessions, 1).await, "valid");
    let began = Instant::now();
    for n in 2..6 {
        assert_eq!(ask(&sessions, n).await, "valid");
    }
    assert_eq!((store.touches(), began.elapsed()), (1, Duration::ZERO));
    for passed in 1..5 {
        store.let_touches_pass(1);
        until("the next touch", || store.touches() == passed + 1).await;
    }
    store.let_touches_pass(1);
    tokio::time::sleep(BUDGET).await;
    assert_eq!(store.touches(), 5, "each once");
}

/// Its cookie is to be sent again with the answer.
#[tokio::test(start_paused = true)]
async fn a_persistent_session_waits_for_its_turn() {
    let (store, sessions) = due();
    store.persistent();
    assert_eq!(ask(&sessions, 1).await, "valid");
    let began = Instant::now();
    assert_eq!(ask(&sessions, 2).await, "valid");
    assert_eq!(began.elapsed(), BUDGET / 5);
}

/// Whatever store it is.
#[tokio::test(start_paused = true)]
async fn a_touch_that_never_ends_keeps_the_turn_from_nobody() {
    let (store, sessions) = due();
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(ask(&sessions, 2).await, "valid");
    assert_eq!(store.touches(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(store.touches(), 2);
    let errors = sessions.recent_errors().join("\n");
    assert!(errors.contains("touching a session"), "{errors}");
}
