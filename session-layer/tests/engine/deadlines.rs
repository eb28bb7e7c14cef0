//! Ports that break their contract because a call hangs or panics. The engine waits for none of
//! them forever, and still completes the steps that follow a change.

use std::time::Duration;

use session_layer::cache::LEASE_TTL;
use session_layer::{Error, NewSession, RevokeTarget, Sessions};
use tokio::time::{Instant, sleep, timeout};

use crate::ports::{Cache, HOUR, How, Store, ask, token, until, valid};

/// The longest timeout of a call to the store.
const LONGEST: Duration = Duration::from_secs(90);
const BUDGET: Duration = Duration::from_millis(250);
const BOTH: [How; 2] = [How::Hangs, How::Panics];

struct Harness {
    sessions: Sessions,
    store: Store,
    cache: Cache,
}

impl Harness {
    /// Breaks this call of the store or the cache.
    fn break_call(&self, call: &'static str, how: How) {
        for calls in [self.store.port_calls(), self.cache.calls()] {
            calls.break_next(call, how, usize::MAX);
        }
    }

    fn repair(&self) {
        self.store.port_calls().repair();
        self.cache.calls().repair();
    }
}

fn harness() -> Harness {
    let (store, cache) = (Store::shared(), Cache::default());
    let builder = Sessions::builder(cache.clone(), store.clone());
    Harness { sessions: builder.validation_timeout(BUDGET).build().unwrap(), store, cache }
}

/// Returns how the operation ended, which it does long before an hour is over.
async fn end<T>(operation: impl IntoFuture<Output = Result<T, Error>>) -> &'static str {
    match timeout(HOUR, operation.into_future()).await {
        Ok(Ok(_)) => "done",
        Ok(Err(Error::Unavailable(_))) => "unavailable",
        Ok(Err(Error::Unknown(_))) => "unknown",
        Ok(Err(_)) => "refused",
        Err(_elapsed) => "never",
    }
}

async fn run(operation: &str, sessions: &Sessions) -> &'static str {
    let new = || NewSession::new("alice");
    let session = valid(sessions, 1).await;
    match operation {
        "begin_login" => end(sessions.begin_login()).await,
        "create" => end(sessions.create(new())).await,
        "register" => end(sessions.register(&token(1), new())).await,
        "list" => end(sessions.list("alice")).await,
        "revoke" => end(sessions.revoke(&token(1))).await,
        "revoke_all" => end(sessions.revoke(RevokeTarget::user("alice"))).await,
        "update" => end(sessions.update(&session, 1)).await,
        "rotate" => end(sessions.rotate(&token(1), HOUR)).await,
        other => panic!("no such operation: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn operation_ends_although_a_call_of_the_store_hangs() {
    for (operation, call, expected, unlinks) in [
        ("begin_login", "login_snapshot", "unavailable", 0),
        ("create", "create", "unknown", 0),
        // The token may have had a session before, and has another now.
        ("register", "create", "unknown", 1),
        ("list", "list", "unavailable", 0),
        // Nothing was changed yet.
        ("revoke", "digests", "unavailable", 0),
        // The session may have been changed.
        ("revoke", "revoke", "unknown", 1),
        // The digests are read afterwards, and the journal ends the entries.
        ("revoke_all", "revoke", "unknown", 0),
        ("update", "update", "unknown", 1),
        ("rotate", "rotate", "unknown", 1),
    ] {
        for how in BOTH {
            let about = format!("{operation} while {call} {how:?}");
            let harness = harness();
            harness.break_call(call, how);
            let began = Instant::now();
            let outcome = run(operation, &harness.sessions).await;
            assert_eq!(outcome, expected, "{about}");
            let took = began.elapsed();
            let expected = if how == How::Hangs { LONGEST } else { Duration::ZERO };
            assert_eq!(took, expected, "{about}");
            assert_eq!(harness.cache.count("invalidate"), unlinks, "{about}");
            let errors = harness.sessions.recent_errors().join("\n");
            assert!(errors.contains("session store: it "), "{about}: {errors}");
            // No task is left of it.
            harness.sessions.shutdown(LEASE_TTL).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn change_is_made_although_a_call_of_the_cache_hangs() {
    for (operation, expected) in [
        ("revoke", "done"),
        ("update", "done"),
        ("register", "done"),
        // The store's result is an error, but no outage.
        ("rotate", "refused"),
    ] {
        let calls = ["fence", "parts", "invalidate"];
        for (call, how) in calls.into_iter().flat_map(|call| BOTH.map(|how| (call, how))) {
            let about = format!("{operation} while {call} {how:?}");
            let harness = harness();
            harness.break_call(call, how);
            let began = Instant::now();
            let outcome = run(operation, &harness.sessions).await;
            assert_eq!(outcome, expected, "{about}");
            assert!(began.elapsed() <= LEASE_TTL, "{about}");
            if call != "invalidate" {
                assert_eq!(harness.cache.count("invalidate"), 1, "{about}");
                continue;
            }
            // The removal is retried until the cache responds.
            let pending_invalidations = || harness.sessions.metrics().pending_invalidations;
            assert!(pending_invalidations() > 0, "{about}");
            sleep(LONGEST).await;
            assert!(pending_invalidations() > 0, "{about}");
            harness.repair();
            sleep(LEASE_TTL * 2).await;
            assert_eq!(pending_invalidations(), 0, "{about}");
        }
    }
}

// The entry may still exist. The node no longer serves it, and the client has a response in time.
#[tokio::test(start_paused = true)]
async fn invalid_is_returned_in_time_although_removal_hangs() {
    for how in BOTH {
        let harness = harness();
        harness.store.end(1);
        harness.break_call("invalidate", how);
        let began = Instant::now();
        assert_eq!(ask(&harness.sessions, 1).await, "invalid", "{how:?}");
        assert!(began.elapsed() < BUDGET);
        assert_eq!(harness.sessions.metrics().pending_invalidations, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn broken_look_up_or_fill_costs_no_response() {
    for call in ["get", "fill"] {
        for how in BOTH {
            let harness = harness();
            harness.break_call(call, how);
            let about = format!("{call} {how:?}");
            assert_eq!(ask(&harness.sessions, 1).await, "valid", "{about}");
            let shut = harness.sessions.shutdown(LEASE_TTL * 2).await;
            assert!(shut.is_ok(), "{about}: {shut:?}");
            let errors = harness.sessions.recent_errors().join("\n");
            assert!(errors.contains("session cache: it "), "{about}: {errors}");
        }
    }
}

// Like a partitioned node, its age grows. Then it reads the journal from the start.
#[tokio::test(start_paused = true)]
async fn hanging_journal_read_is_retried_from_the_start() {
    for how in BOTH {
        let harness = harness();
        sleep(Duration::from_secs(10)).await;
        let read = harness.sessions.metrics().journal_reads;
        assert!(read > 10);
        harness.break_call("journal", how);
        sleep(LONGEST).await;
        let cut_off = harness.sessions.metrics();
        assert!(cut_off.journal_reads <= read + 1, "{how:?}");
        assert!(cut_off.journal_age.unwrap() > LONGEST / 2, "{how:?}");
        harness.repair();
        sleep(Duration::from_secs(10)).await;
        let again = harness.sessions.metrics();
        assert!(again.journal_reads > read + 10, "{how:?}");
        assert!(again.journal_age.unwrap() < Duration::from_secs(1));
        let positions = harness.store.state().positions.clone();
        let from_the_start = positions.iter().skip(1).any(Option::is_none);
        assert!(from_the_start, "{how:?}");
        assert!(positions.last().unwrap().is_some(), "{how:?}");
        let errors = harness.sessions.recent_errors().join("\n");
        assert!(errors.contains("reading the journal; "), "{errors}");
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_housekeeping_is_retried() {
    for call in ["purge", "sweep"] {
        for how in BOTH {
            let harness = harness();
            harness.break_call(call, how);
            sleep(LONGEST * 5).await;
            assert!(harness.store.count(call) > 1, "{call} {how:?}");
            // A failure of one half does not stop the other.
            assert!(harness.store.count("sweep") > 1, "{call} {how:?}");
        }
    }
}

// No entry is served before this reply.
#[tokio::test(start_paused = true)]
async fn store_identity_is_queried_until_a_reply() {
    for how in BOTH {
        let harness = harness();
        harness.break_call("learn", how);
        sleep(LONGEST).await;
        let asked = harness.store.count("learn");
        assert!(asked > 10, "{how:?}: {asked}");
        harness.repair();
        let learnt = || async {
            sleep(LEASE_TTL * 2).await;
            harness.store.count("learn")
        };
        assert_eq!(learnt().await, learnt().await, "no further query follows the reply");
    }
}

#[tokio::test(start_paused = true)]
async fn health_is_reported_although_probes_hang() {
    for how in BOTH {
        let harness = harness();
        harness.break_call("probe", how);
        let report = timeout(Duration::from_secs(1), harness.sessions.health()).await.unwrap();
        // The last look-ups decide about a cache whose probe hangs. A panic is no connection.
        let (status, says) = match how {
            How::Hangs => (200, "the probe had not ended"),
            How::Panics => (503, "the probe was cancelled"),
        };
        assert_eq!(report.http_status(), status, "{how:?}");
        assert!(report.errors.iter().any(|error| error.contains(says)), "{:?}", report.errors);
    }
}

// A handle that is dropped without a shutdown leaves no hanging task.
#[tokio::test(start_paused = true)]
async fn hanging_call_does_not_keep_the_ports_in_memory() {
    for call in ["learn", "journal", "revoke", "invalidate", "fill", "purge"] {
        let harness = harness();
        harness.break_call(call, How::Hangs);
        let Harness { sessions, cache, .. } = harness;
        assert_eq!(ask(&sessions, 1).await, "valid");
        let revoking = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.revoke(&token(1)).await }
        });
        sleep(LONGEST).await;
        revoking.abort();
        drop((sessions, revoking));
        sleep(LONGEST * 5).await;
        until(call, || cache.is_alone()).await;
    }
}

// A token that was issued elsewhere may have an old entry.
#[tokio::test(start_paused = true)]
async fn removal_after_register_continues_without_its_caller() {
    let harness = harness();
    assert_eq!(ask(&harness.sessions, 1).await, "valid");
    harness.break_call("create", How::Hangs);
    let registering = tokio::spawn({
        let sessions = harness.sessions.clone();
        async move { sessions.register(&token(1), NewSession::new("alice")).await }
    });
    until("the store to be called", || harness.store.count("create") == 1).await;
    registering.abort();
    let removed = harness.cache.count("invalidate");
    sleep(LONGEST + BUDGET).await;
    assert_eq!(harness.cache.count("invalidate"), removed + 1);
}
