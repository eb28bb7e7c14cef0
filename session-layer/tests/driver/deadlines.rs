//! Ports that break their contract: a call never ends, or panics. Nothing of ours waits for ever for one, and what has
//! to follow a change follows.

mod ports;

use std::future::Future;
use std::time::Duration;

use session_layer::cache::LEASE;
use session_layer::{Error, NewSession, Sessions, Validation};
use tokio::time::{Instant, sleep, timeout};

use self::ports::{Broken, BrokenCache, BrokenStore, How};
use crate::ports::{Cache, HOUR, Store, ask, token, until};

/// What is given to a call of the store of which nobody waits for less.
const LONGEST: Duration = Duration::from_secs(90);
const BUDGET: Duration = Duration::from_millis(250);
const BOTH: [How; 2] = [How::Hangs, How::Panics];

struct Rig {
    sessions: Sessions,
    store: Store,
    cache: Cache,
    broken: Broken,
}

fn rig() -> Rig {
    let (store, cache, broken) = (Store::new(), Cache::default(), Broken::default());
    let ports = (
        BrokenCache(cache.clone(), broken.clone()),
        BrokenStore(store.clone(), broken.clone()),
    );
    Rig {
        sessions: Sessions::builder(ports.0, ports.1).budget(BUDGET).build(),
        store,
        cache,
        broken,
    }
}

/// What came of it. It comes long before an hour is over.
async fn end<T>(operation: impl Future<Output = Result<T, Error>>) -> &'static str {
    match timeout(HOUR, operation).await {
        Ok(Ok(_)) => "done",
        Ok(Err(Error::Unavailable(_))) => "unavailable",
        Ok(Err(Error::Unknown(_))) => "unknown",
        Ok(Err(_)) => "refused",
        Err(_elapsed) => "never",
    }
}

async fn carry_out(operation: &str, sessions: &Sessions) -> &'static str {
    let new = || NewSession::new("alice");
    let Validation::Valid(session) = sessions.validate(&token(1)).await else {
        panic!("it is alive");
    };
    match operation {
        "begin_login" => end(sessions.begin_login()).await,
        "create" => end(sessions.create(new())).await,
        "register" => end(sessions.register(&token(1), new())).await,
        "list" => end(sessions.list("alice")).await,
        "revoke" => end(sessions.revoke(&token(1))).await,
        "revoke_all" => end(sessions.revoke_all("alice")).await,
        "update" => end(sessions.update(&session, 1)).await,
        "rotate" => end(sessions.rotate(&token(1), HOUR)).await,
        other => panic!("no such operation: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn every_operation_ends_whatever_call_of_the_store_does_not() {
    for (operation, call, expected, unlinks) in [
        ("begin_login", "login_moment", "unavailable", 0),
        ("create", "create", "unknown", 0),
        // The token may have had a session, and has another now.
        ("register", "create", "unknown", 1),
        ("list", "list", "unavailable", 0),
        // Nothing was changed yet.
        ("revoke", "digests", "unavailable", 0),
        // It may have been.
        ("revoke", "revoke", "unknown", 1),
        ("revoke_all", "revoke", "unknown", 1),
        ("update", "update", "unknown", 1),
        ("rotate", "rotate", "unknown", 1),
    ] {
        for how in BOTH {
            let about = format!("{operation}, where {call} {how:?}");
            let rig = rig();
            rig.broken.now(call, how);
            let began = Instant::now();
            let came = carry_out(operation, &rig.sessions).await;
            assert_eq!(came, expected, "{about}");
            let took = began.elapsed();
            let expected = if how == How::Hangs {
                LONGEST
            } else {
                Duration::ZERO
            };
            assert_eq!(took, expected, "{about}");
            assert_eq!(rig.cache.invalidations(), unlinks, "{about}");
            let errors = rig.sessions.recent_errors().join("\n");
            assert!(errors.contains("session store: it "), "{about}: {errors}");
            // And nothing is left of it.
            rig.sessions.shutdown(LEASE).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_made_whatever_call_of_the_cache_does_not_end() {
    for (operation, expected) in [
        ("revoke", "done"),
        ("revoke_all", "done"),
        ("update", "done"),
        // The stub's answers: neither is an outage.
        ("register", "refused"),
        ("rotate", "refused"),
    ] {
        for (call, how) in [("fence", BOTH), ("invalidate", BOTH)]
            .into_iter()
            .flat_map(|(call, both)| both.map(|how| (call, how)))
        {
            let about = format!("{operation}, where {call} {how:?}");
            let rig = rig();
            rig.broken.now(call, how);
            let began = Instant::now();
            let came = carry_out(operation, &rig.sessions).await;
            assert_eq!(came, expected, "{about}");
            assert!(began.elapsed() <= LEASE, "{about}");
            if call == "fence" {
                assert_eq!(rig.cache.invalidations(), 1, "{about}");
                continue;
            }
            // It is tried again, until the cache answers.
            let unacknowledged = || rig.sessions.metrics().unacknowledged;
            assert!(unacknowledged() > 0, "{about}");
            sleep(LONGEST).await;
            assert!(unacknowledged() > 0, "{about}");
            rig.broken.repaired();
            sleep(LEASE * 2).await;
            assert_eq!(unacknowledged(), 0, "{about}");
        }
    }
}

/// The copy may be there still, so this node believes it no more; the client has an answer, and in time.
#[tokio::test(start_paused = true)]
async fn an_invalid_is_said_in_time_though_its_removal_never_ends() {
    for how in BOTH {
        let rig = rig();
        rig.store.end(1);
        rig.broken.now("invalidate", how);
        let began = Instant::now();
        assert_eq!(ask(&rig.sessions, 1).await, "invalid", "{how:?}");
        assert!(began.elapsed() < BUDGET);
        assert_eq!(rig.sessions.metrics().unacknowledged, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_and_a_fill_that_break_cost_no_answer_and_leave_nothing() {
    for call in ["get", "fill"] {
        for how in BOTH {
            let rig = rig();
            rig.broken.now(call, how);
            let about = format!("{call} {how:?}");
            assert_eq!(ask(&rig.sessions, 1).await, "valid", "{about}");
            let shut = rig.sessions.shutdown(LEASE * 2).await;
            assert!(shut.is_ok(), "{about}: {shut:?}");
            let errors = rig.sessions.recent_errors().join("\n");
            assert!(errors.contains("session cache: it "), "{about}: {errors}");
        }
    }
}

/// As one that is cut off: its age grows, and then it is read from the start.
#[tokio::test(start_paused = true)]
async fn a_journal_whose_read_never_ends_is_read_again_from_its_start() {
    for how in BOTH {
        let rig = rig();
        sleep(Duration::from_secs(10)).await;
        let read = rig.sessions.metrics().journal_reads;
        assert!(read > 10);
        rig.broken.now("journal", how);
        sleep(LONGEST).await;
        let cut_off = rig.sessions.metrics();
        assert!(cut_off.journal_reads <= read + 1, "{how:?}");
        assert!(cut_off.journal_age.unwrap() > LONGEST / 2, "{how:?}");
        rig.broken.repaired();
        sleep(Duration::from_secs(10)).await;
        let again = rig.sessions.metrics();
        assert!(again.journal_reads > read + 10, "{how:?}");
        assert!(again.journal_age.unwrap() < Duration::from_secs(1));
        let positions = rig.broken.positions();
        let from_the_start = positions.iter().skip(1).any(Option::is_none);
        assert!(from_the_start, "{how:?}");
        assert!(positions.last().unwrap().is_some(), "{how:?}");
        let errors = rig.sessions.recent_errors().join("\n");
        assert!(errors.contains("(reading the journal; "), "{errors}");
    }
}

#[tokio::test(start_paused = true)]
async fn housekeeping_that_never_ends_is_tried_again() {
    for call in ["purge", "sweep"] {
        for how in BOTH {
            let rig = rig();
            rig.broken.now(call, how);
            sleep(LONGEST * 5).await;
            assert!(rig.broken.calls(call) > 1, "{call} {how:?}");
            // Neither half needs the other.
            assert!(rig.broken.calls("sweep") > 1, "{call} {how:?}");
        }
    }
}

/// Before its answer no copy is believed.
#[tokio::test(start_paused = true)]
async fn the_store_is_asked_again_which_one_it_is() {
    for how in BOTH {
        let rig = rig();
        rig.broken.now("learn", how);
        sleep(LONGEST).await;
        let asked = rig.broken.calls("learn");
        assert!(asked > 10, "{how:?}: {asked}");
        rig.broken.repaired();
        let learnt = || async {
            sleep(LEASE * 2).await;
            rig.broken.calls("learn")
        };
        assert_eq!(learnt().await, learnt().await, "it has answered");
    }
}

#[tokio::test(start_paused = true)]
async fn health_is_told_though_nobody_answers_its_probes() {
    for how in BOTH {
        let rig = rig();
        rig.broken.now("probe", how);
        let told = timeout(Duration::from_secs(1), rig.sessions.health()).await;
        assert_eq!(told.unwrap().http_status(), 503, "{how:?}");
    }
}

/// A handle that is dropped without a shutdown leaves nothing that hangs.
#[tokio::test(start_paused = true)]
async fn what_hangs_does_not_keep_the_ports_alive() {
    for call in ["learn", "journal", "revoke", "invalidate", "fill", "purge"] {
        let Rig {
            sessions,
            cache,
            broken,
            ..
        } = rig();
        broken.now(call, How::Hangs);
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

/// Of a token that was issued elsewhere there may be an old copy.
#[tokio::test(start_paused = true)]
async fn what_follows_a_registration_does_not_wait_for_its_caller() {
    let rig = rig();
    assert_eq!(ask(&rig.sessions, 1).await, "valid");
    rig.broken.now("create", How::Hangs);
    let registering = tokio::spawn({
        let sessions = rig.sessions.clone();
        async move { sessions.register(&token(1), NewSession::new("alice")).await }
    });
    until("the store to be asked", || rig.broken.calls("create") == 1).await;
    registering.abort();
    let removed = rig.broken.calls("invalidate");
    sleep(LONGEST + BUDGET).await;
    assert_eq!(rig.broken.calls("invalidate"), removed + 1);
}
