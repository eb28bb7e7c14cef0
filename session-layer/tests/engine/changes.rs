//! Logins, changes and lists in a flood, over a store whose calls are held.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::cache::NoCache;
use session_layer::error::StoreErrorKind;
use session_layer::{Error, NewSession, RevokeTarget, SessionId, Sessions, Validation, Visibility};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::ports::{Cache, HOUR, Store, token, until, valid};

const WAIT: Duration = Duration::from_millis(400);

fn harness() -> (Cache, Store, Sessions) {
    let (cache, store) = (Cache::default(), Store::new());
    let sessions =
        Sessions::builder(cache.clone(), store.clone()).change_wait(WAIT).build().unwrap();
    (cache, store, sessions)
}

fn unknown(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

#[tokio::test(start_paused = true)]
async fn change_of_unknown_session_costs_one_read() {
    let (cache, store, sessions) = harness();
    let known = valid(&sessions, 1).await;
    let mut parts = known.parts();
    parts.id = unknown(0);
    let nothing = sessions.revoke(unknown(0)).await.unwrap();
    assert_eq!((nothing.value, nothing.visibility), (0, Visibility::Nothing));
    let nothing = sessions.revoke(RevokeTarget::owned("alice", unknown(0))).await.unwrap();
    assert_eq!((nothing.value, nothing.visibility), (0, Visibility::Nothing));
    let updated = sessions.update(&parts.into(), 1).await;
    assert!(matches!(updated, Err(Error::NoSession)), "{updated:?}");
    assert_eq!(store.calls(), ["digests"; 3]);
    assert_eq!((cache.count("fence"), cache.count("invalidate")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn change_of_unknown_token_costs_a_read_and_a_removal() {
    let (cache, store, sessions) = harness();
    store.remove(1);
    let nothing = sessions.revoke(&token(1)).await.unwrap();
    assert_eq!((nothing.value, nothing.visibility), (0, Visibility::Nothing));
    assert_eq!((cache.count("fence"), cache.count("invalidate")), (0, 1));
    let rotated = sessions.rotate(&token(1), HOUR).await;
    assert!(matches!(rotated, Err(Error::NoSession)), "{rotated:?}");
    assert_eq!(store.calls(), ["digests"; 2]);
    assert_eq!((cache.count("fence"), cache.count("invalidate")), (0, 2));
}

// A login of the user may be in progress.
#[tokio::test(start_paused = true)]
async fn revoke_all_of_a_user_without_sessions_is_a_change() {
    let (_, store, sessions) = harness();
    let changed = sessions.revoke(RevokeTarget::user("nobody")).await.unwrap();
    assert_eq!(changed.value, 0);
    assert_eq!(store.calls(), ["revoke"]);
}

fn beginning(sessions: &Sessions) -> JoinHandle<String> {
    let sessions = sessions.clone();
    tokio::spawn(async move {
        let login = sessions.begin_login().await.unwrap();
        login.snapshot().to_string()
    })
}

#[tokio::test(start_paused = true)]
async fn concurrent_logins_share_the_next_read() {
    let (_, store, sessions) = harness();
    store.hold_calls();
    let mut first = Vec::new();
    for reads in 1..=2 {
        first.push(beginning(&sessions));
        until("a read", || store.count("login_snapshot") == reads).await;
    }
    let rest: Vec<_> = (0..6_000).map(|_| beginning(&sessions)).collect();
    until("all to wait", || sessions.metrics().changes_waiting == 6_000).await;
    store.let_calls_pass(3);
    for (n, one) in first.into_iter().enumerate() {
        assert_eq!(one.await.unwrap(), (n + 1).to_string());
    }
    for one in rest {
        // An earlier snapshot would be wrong: these logins began after the other reads.
        assert_eq!(one.await.unwrap(), "3");
    }
    assert_eq!(sessions.metrics().login_reads, 3);
    assert_eq!(sessions.metrics().changes_shed, 0);
}

#[tokio::test(start_paused = true)]
async fn login_is_shed_if_its_read_does_not_begin_in_time() {
    let (_, store, sessions) = harness();
    store.hold_calls();
    let mut held = Vec::new();
    for reads in 1..=2 {
        held.push(beginning(&sessions));
        until("a read", || store.count("login_snapshot") == reads).await;
    }
    let began = Instant::now();
    assert_shed(sessions.begin_login().await.map(drop));
    assert_eq!(began.elapsed(), WAIT);
    // A login whose read has begun waits for it.
    store.let_calls_pass(2);
    for one in held {
        one.await.unwrap();
    }
}

#[track_caller]
fn assert_shed(refused: Result<(), Error>) {
    let error = refused.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
    let Error::Unavailable(shed) = error else {
        panic!("expected Unavailable: {error:?}");
    };
    assert_eq!(shed.kind(), StoreErrorKind::Shed);
    let text = shed.to_string();
    assert!(text.contains("load was shed") && text.contains("nothing was changed"));
}

fn revoking(sessions: &Sessions, user: &'static str, n: u8) -> JoinHandle<Result<(), Error>> {
    let sessions = sessions.clone();
    tokio::spawn(async move {
        let revoked = sessions.revoke(RevokeTarget::owned(user, unknown(n))).await;
        revoked.map(drop)
    })
}

#[tokio::test(start_paused = true)]
async fn flood_of_one_user_leaves_the_last_slot_and_is_shed() {
    let (_, store, sessions) = harness();
    store.hold_calls();
    let flood: Vec<_> = (0..6_000).map(|_| revoking(&sessions, "mallory", 0)).collect();
    until("the flood to wait", || sessions.metrics().changes_waiting == 6_000 - 3).await;
    assert_eq!(store.count("digests"), 3);
    let alice = revoking(&sessions, "alice", 1);
    until("alice's turn", || store.count("digests") == 4).await;
    // Neither a login nor a list waits for the flood.
    let login = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.create(NewSession::new("bob")).await.map(drop) }
    });
    until("a login", || store.count("create") == 1).await;
    sleep(WAIT).await;
    let shed = join_all(flood.into_iter().skip(3)).await;
    shed.into_iter().for_each(|one| assert_shed(one.unwrap()));
    let metrics = sessions.metrics();
    assert_eq!(metrics.changes_shed, 6_000 - 3);
    assert!(sessions.recent_errors()[0].contains("load was shed"));
    store.let_calls_pass(5);
    alice.await.unwrap().unwrap();
    login.await.unwrap().unwrap();
    until("the flood to be gone", || sessions.metrics().changes_waiting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn change_that_cannot_begin_in_time_is_shed_at_once() {
    let (_, store, sessions) = harness();
    store.state().takes = WAIT / 4;
    for _ in 0..20 {
        revoking(&sessions, "mallory", 0).await.unwrap().unwrap();
    }
    let began = Instant::now();
    let flood: Vec<_> = (0..100).map(|_| revoking(&sessions, "mallory", 0)).collect();
    until("most to be shed", || sessions.metrics().changes_shed > 80).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    // Other users wait for at most one turn.
    for user in ["alice", "bob", "carol"] {
        revoking(&sessions, user, 1).await.unwrap().unwrap();
    }
    for one in flood {
        let _ = one.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_callers_release_their_turns() {
    let (_, store, sessions) = harness();
    store.hold_calls();
    let flood: Vec<_> = (0..100).map(|_| revoking(&sessions, "mallory", 0)).collect();
    until("the flood to wait", || sessions.metrics().changes_waiting == 97).await;
    let alice: Vec<_> = (0..3).map(|_| revoking(&sessions, "alice", 1)).collect();
    until("alice to wait", || sessions.metrics().changes_waiting == 99).await;
    for one in flood {
        one.abort();
    }
    // Calls in flight continue to their end.
    store.let_calls_pass(1_000);
    for one in alice {
        one.await.unwrap().unwrap();
    }
    until("the queue to be empty", || sessions.metrics().changes_waiting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_logins_in_flight() {
    let (_, store, sessions) = harness();
    store.hold_calls();
    let creating: Vec<_> = (0..40)
        .map(|n| {
            let sessions = sessions.clone();
            tokio::spawn(async move { sessions.create(NewSession::new(format!("user {n}"))).await })
        })
        .collect();
    until("all to be in flight or queued", || sessions.metrics().changes_waiting == 36).await;
    let stopping = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.shutdown(HOUR).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.let_calls_pass(40);
    for one in creating {
        one.await.unwrap().unwrap();
    }
    stopping.await.unwrap().unwrap();
    let calls = store.calls();
    assert_eq!((store.count("created"), store.count("close")), (40, 1));
    assert_eq!(calls.last(), Some(&"close"));
}

// Callers in the process that retry at once must not starve the other tasks of a runtime.
#[tokio::test(start_paused = true)]
async fn immediate_retries_let_other_tasks_run() {
    let store = Store::new();
    store.state().takes = HOUR;
    let sessions = Sessions::builder(NoCache, store.clone())
        .max_concurrent_reads(1)
        .change_wait(Duration::ZERO)
        .build()
        .unwrap();
    let ask = {
        let sessions = sessions.clone();
        async move || matches!(sessions.validate(&token(2)).await, Validation::Unavailable)
    };
    // A slow read holds the only slot, and reads are known to be slow.
    assert!(ask().await);
    until_shed(&sessions, &ask).await;
    let list = async || sessions.list("alice").await.is_err();
    let mut held = Vec::new();
    for lists in 1..=4 {
        let sessions = sessions.clone();
        held.push(tokio::spawn(
            async move { sessions.list(["a", "b", "c", "d"][lists - 1]).await },
        ));
        until("a list", || store.count("list") == lists).await;
    }
    assert_others_run_beside(&ask).await;
    assert_others_run_beside(&list).await;
}

async fn until_shed(sessions: &Sessions, ask: &impl AsyncFn() -> bool) {
    while sessions.metrics().shed == 0 {
        assert!(ask().await);
    }
}

/// Calls `ask` until another task has ended.
async fn assert_others_run_beside(ask: &impl AsyncFn() -> bool) {
    let other = tokio::spawn(async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..1_000_000 {
        assert!(ask().await, "the call is rejected");
        if other.is_finished() {
            return;
        }
    }
    panic!("the other task did not end within 1,000,000 calls");
}
