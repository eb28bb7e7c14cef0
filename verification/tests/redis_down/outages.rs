//! What happens when Redis is down, slow, or comes late.

use std::time::Duration;

use session_layer::{RevokeTarget, Sessions, Visibility};
use session_testkit::backends::{Backend, Backends};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Outcome, on_each_backend, shared};
use crate::support::{
    OwnRedis, SOON, ask, built, cache_within, login, sessions_on, store, until_connected,
    until_disconnected, until_hit,
};

on_each_backend!(redis_killed_is_replaced_by_postgres);
async fn redis_killed_is_replaced_by_postgres(backend: Backend) -> Outcome {
    let backends = Backends::shared(backend).await?;
    let own = OwnRedis::start_on(backend, &backends, &[]).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    own.redis.kill().await?;
    for _ in 0..20 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let metrics = sessions.metrics();
    assert!(metrics.errors >= 19, "{metrics:?}");
    // What Postgres must do still works, and says how far it reaches.
    let bob = login(&sessions, "bob").await?;
    let changed = sessions.revoke(bob.token.reveal()).await?;
    assert_eq!(
        changed.visibility,
        Visibility::Committed { within: Duration::from_secs(2), at_most: Duration::from_secs(302) }
    );
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    assert!(!sessions.recent_errors().is_empty());
    own.redis.restart().await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_paused_delays_no_request_after_the_first() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let paused = own.redis.pause().await?;
    // The first may wait for its deadline; no one is refused.
    assert_eq!(ask(&sessions, &alice).await, "valid");
    until_disconnected(&sessions).await?;
    // From then on no request waits for Redis: a thousand of them, with a deadline of 500 ms each.
    let before = sessions.metrics().errors;
    let begin = std::time::Instant::now();
    for _ in 0..1000 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    assert_eq!(sessions.metrics().errors, before + 1000);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    paused.resume().await?;
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_slower_than_its_deadline_is_given_up_and_used_again() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let proxy = Proxy::start(own.redis.address()).await?;
    let sessions = sessions_on(&proxy.url(own.redis.url()), &own.sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    // Slower than the deadline: given up, then used again.
    let slow = proxy.inject(Toxic::latency(Duration::from_millis(700), Duration::ZERO));
    assert_eq!(ask(&sessions, &alice).await, "valid");
    until_disconnected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    slow.heal();
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_absent_at_the_start_is_used_once_it_is_there() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    own.redis.stop().await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(sessions.metrics().errors, 1);
    assert!(!sessions.cache_status().connected);
    own.redis.restart().await?;
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_hang_are_replaced() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let proxy = Proxy::start(own.redis.address()).await?;
    let sessions = sessions_on(&proxy.url(own.redis.url()), &own.sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let _hang = proxy.inject(Toxic::blackhole());
    assert_eq!(ask(&sessions, &alice).await, "valid");
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_closed_by_redis_fail_no_request() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    // Connecting anew has to be quick, but not on this machine at this moment.
    let cache = cache_within(Duration::from_secs(4), own.redis.url(), &own.sandbox)?;
    let sessions = built(cache, store(&own.sandbox).await?);
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    // What `timeout` does to idle connections, but at a moment of our choosing and many times over.
    let mut redis = own.redis.connect().await?;
    let before = sessions.metrics();
    for _ in 0..50 {
        let _: u64 = redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .query_async(&mut redis)
            .await?;
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let after = sessions.metrics();
    let errors = sessions.recent_errors();
    assert_eq!(after.errors, before.errors, "the next request is not hurt: {errors:?}");
    assert_eq!(after.hits, before.hits + 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_under_load_fail_no_request() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let proxy = Proxy::start(own.redis.address()).await?;
    let sessions = sessions_on(&proxy.url(own.redis.url()), &own.sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    for _ in 0..20 {
        proxy.inject(Toxic::down().established()).heal();
        let burst = (0..50).map(|_| ask(&sessions, &alice));
        let answers = futures_util::future::join_all(burst).await;
        assert!(answers.iter().all(|answer| *answer == "valid"), "{answers:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_while_redis_is_paused_is_invalid_afterwards() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let paused = own.redis.pause().await?;
    let changed = sessions.revoke(alice.token.reveal()).await?;
    assert!(matches!(changed.visibility, Visibility::Committed { .. }), "{changed:?}");
    assert_eq!(sessions.metrics().pending_invalidations, 1);
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    // The copy is still in there, unexpired. This node does not serve it, and has it removed.
    paused.resume().await?;
    until_connected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    wait::until("the UNLINK", SOON, async || sessions.metrics().pending_invalidations == 0).await?;
    let other = own.sessions().await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    Ok(())
}

/// Ended by plain SQL while Redis hangs, with its copy in there. A node that has answered "invalid"
/// does not serve that copy afterwards, and has it removed, so that no other node does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_while_redis_is_paused_stays_invalid() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let (one, other) = (own.sessions().await?, own.sessions().await?);
    let alice = login(&one, "alice").await?;
    until_hit(&one, &alice).await?;
    until_hit(&other, &alice).await?;
    let paused = own.redis.pause().await?;
    let revoke = format!(
        "UPDATE {}.sessions SET revoked_at = now() WHERE id = '{}'",
        own.sandbox.schema(),
        alice.session.id()
    );
    let mut postgres = backends.postgres().connect().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(revoke)).execute(&mut postgres).await?;
    assert_eq!(ask(&one, &alice).await, "invalid");
    assert_eq!(one.metrics().pending_invalidations, 1);
    paused.resume().await?;
    until_connected(&one).await?;
    assert_eq!(ask(&one, &alice).await, "invalid");
    wait::until("the UNLINK", SOON, async || one.metrics().pending_invalidations == 0).await?;
    until_connected(&other).await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_not_used() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let master = OwnRedis::start(&backends).await?;
    own.redis.replica_of(Some(&master.redis)).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert!(!sessions.cache_status().connected);
    assert!(sessions.recent_errors().iter().any(|error| error.contains("replica")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_out_of_memory_still_serves_and_invalidates() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    own.redis.config_set("maxmemory-policy", "noeviction").await?;
    own.redis.config_set("maxmemory", "1").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid", "reading goes on");
    let before = sessions.metrics();
    assert_eq!(ask(&sessions, &bob).await, "valid", "from Postgres");
    let after = sessions.metrics();
    assert_eq!((after.misses, after.errors), (before.misses + 1, before.errors));
    assert!(sessions.recent_errors().iter().any(|error| error.contains("OOM")));
    // UNLINK is allowed under OOM, so revoking reaches everywhere as ever.
    assert_eq!(sessions.revoke(alice.token.reveal()).await?.visibility, Visibility::Propagated);
    own.redis.config_set("maxmemory", "0").await?;
    until_hit(&sessions, &bob).await?;
    Ok(())
}

/// A managed Redis that won't say who it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_without_info_is_used_and_nothing_propagated() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let mut redis = own.redis.connect().await?;
    let rights = ["SETUSER", "poor", "on", ">secret", "~*", "+@all", "-info"];
    let () = redis::cmd("ACL").arg(&rights).query_async(&mut redis).await?;
    let url = own.redis.url().replacen("redis://", "redis://poor:secret@", 1);
    used_and_nothing_promised(&sessions_on(&url, &own.sandbox).await?).await
}

/// One that has taken the command away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_info_renamed_is_used_and_nothing_propagated() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start_with(&backends, &["--rename-command", "INFO", ""]).await?;
    used_and_nothing_promised(&own.sessions().await?).await
}

async fn used_and_nothing_promised(sessions: &Sessions) -> Outcome {
    let alice = login(sessions, "alice").await?;
    until_hit(sessions, &alice).await?;
    let changed = sessions.revoke(alice.token.reveal()).await?;
    assert!(matches!(changed.visibility, Visibility::Committed { .. }), "{changed:?}");
    assert_eq!(ask(sessions, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sessions_end_in_batches() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions_on(sandbox.redis_url(), &sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let many = format!(
        "INSERT INTO {0}.sessions (user_id, token_digest, expires_at)
         SELECT 'alice', sha256(n::text::bytea), now() + interval '1 day' FROM generate_series(1, \
         3000) n;
         INSERT INTO {0}.sessions (user_id, token_digest, expires_at)
         SELECT 'alice', sha256(n::text::bytea), now() - interval '1 year' FROM \
         generate_series(3001, 9000) n",
        sandbox.schema()
    );
    let mut postgres = backends.postgres().connect().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(many)).execute(&mut postgres).await?;
    let changed = sessions.revoke(RevokeTarget::user("alice")).await?;
    assert_eq!((changed.value, changed.visibility), (3001, Visibility::Propagated));
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    Ok(())
}
