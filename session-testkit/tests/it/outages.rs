//! What happens when Redis, Postgres, or both are down, slow, or come late.

use std::sync::Arc;
use std::time::Duration;

use session_layer::{Reach, Sessions};
use session_testkit::backends::{Backend, Backends};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Outcome, Registry};
use crate::support::{
    OwnRedis, SOON, ask, built, cache_within, login, sessions_on, store, until_connected,
    until_disconnected, until_hit,
};

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("redis_killed", redis_killed);
    reg.shared("redis_paused", redis_paused);
    reg.shared("redis_slow", redis_slow);
    reg.shared("redis_refused_at_start", redis_refused_at_start);
    reg.shared(
        "established_connections_hang_while_new_ones_work",
        established_hang,
    );
    reg.shared("idle_connections_closed_by_redis", idle_closed);
    reg.shared("all_connections_closed_under_load", connections_closed);
    reg.shared("revoked_while_redis_was_paused", revoked_while_paused);
    reg.each_backend("postgres_down_with_redis_up_then_both", postgres_down);
    reg.shared(
        "invalid_while_redis_was_paused_stays_invalid",
        invalid_while_paused,
    );
    reg.shared("a_replica_is_not_used", replica_not_used);
    reg.shared("redis_out_of_memory", out_of_memory);
    reg.shared("info_denied", info_denied);
    reg.shared("info_renamed_away", info_renamed);
    reg.shared("thousands_of_sessions_end_in_batches", thousands);
}

async fn redis_killed(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start(&backends).await?;
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
        changed.reach,
        Reach::Committed {
            within: Duration::from_secs(2),
            at_most: Duration::from_secs(302),
        }
    );
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    assert!(!sessions.recent_errors().is_empty());
    own.redis.restart().await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    Ok(())
}

async fn redis_paused(backends: Arc<Backends>) -> Outcome {
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
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
    paused.resume().await?;
    until_hit(&sessions, &alice).await?;
    Ok(())
}

async fn redis_slow(backends: Arc<Backends>) -> Outcome {
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

async fn redis_refused_at_start(backends: Arc<Backends>) -> Outcome {
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

async fn established_hang(backends: Arc<Backends>) -> Outcome {
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

async fn idle_closed(backends: Arc<Backends>) -> Outcome {
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
    assert_eq!(
        after.errors, before.errors,
        "the next request is not hurt: {errors:?}"
    );
    assert_eq!(after.hits, before.hits + 50);
    Ok(())
}

async fn connections_closed(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start(&backends).await?;
    let proxy = Proxy::start(own.redis.address()).await?;
    let sessions = sessions_on(&proxy.url(own.redis.url()), &own.sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    for _ in 0..20 {
        proxy.inject(Toxic::down().established()).heal();
        let burst = (0..50).map(|_| ask(&sessions, &alice));
        let answers = futures_util::future::join_all(burst).await;
        assert!(
            answers.iter().all(|answer| *answer == "valid"),
            "{answers:?}"
        );
    }
    Ok(())
}

async fn revoked_while_paused(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let paused = own.redis.pause().await?;
    let changed = sessions.revoke(alice.token.reveal()).await?;
    assert!(
        matches!(changed.reach, Reach::Committed { .. }),
        "{changed:?}"
    );
    assert_eq!(sessions.metrics().unacknowledged, 1);
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    // The copy is still in there, unexpired. This node does not serve it, and has it removed.
    paused.resume().await?;
    until_connected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    wait::until("the UNLINK", SOON, async || {
        sessions.metrics().unacknowledged == 0
    })
    .await?;
    let other = own.sessions().await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    Ok(())
}

/// Ended by plain SQL while Redis hangs, with its copy in there. A node that has answered "invalid" does
/// not serve that copy afterwards, and has it removed, so that no other node does.
async fn invalid_while_paused(backends: Arc<Backends>) -> Outcome {
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
    sqlx::raw_sql(sqlx::AssertSqlSafe(revoke))
        .execute(&mut postgres)
        .await?;
    assert_eq!(ask(&one, &alice).await, "invalid");
    assert_eq!(one.metrics().unacknowledged, 1);
    paused.resume().await?;
    until_connected(&one).await?;
    assert_eq!(ask(&one, &alice).await, "invalid");
    wait::until("the UNLINK", SOON, async || {
        one.metrics().unacknowledged == 0
    })
    .await?;
    until_connected(&other).await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    Ok(())
}

async fn postgres_down(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions_on(sandbox.redis_url(), &sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    backends.postgres().kill().await?;
    // Redis up: who was seen lately is let in; of the others nobody can say.
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(ask(&sessions, &bob).await, "unavailable");
    let refused = sessions.revoke(alice.token.reveal()).await;
    assert!(
        refused.as_ref().is_err_and(session_layer::Error::is_outage),
        "{refused:?}"
    );
    // Both down: nobody can say, and that is no "invalid".
    backends.redis().kill().await?;
    assert_eq!(ask(&sessions, &alice).await, "unavailable");
    backends.postgres().restart().await?;
    wait::until("Postgres to answer", SOON, async || {
        ask(&sessions, &bob).await == "valid"
    })
    .await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    Ok(())
}

async fn replica_not_used(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start(&backends).await?;
    let master = OwnRedis::start(&backends).await?;
    own.redis.replica_of(Some(&master.redis)).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert!(!sessions.cache_status().connected);
    assert!(
        sessions
            .recent_errors()
            .iter()
            .any(|error| error.contains("replica"))
    );
    Ok(())
}

async fn out_of_memory(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    own.redis
        .config_set("maxmemory-policy", "noeviction")
        .await?;
    own.redis.config_set("maxmemory", "1").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid", "reading goes on");
    let before = sessions.metrics();
    assert_eq!(ask(&sessions, &bob).await, "valid", "from Postgres");
    let after = sessions.metrics();
    assert_eq!(
        (after.misses, after.errors),
        (before.misses + 1, before.errors)
    );
    assert!(
        sessions
            .recent_errors()
            .iter()
            .any(|error| error.contains("OOM"))
    );
    // UNLINK is allowed under OOM, so revoking reaches everywhere as ever.
    assert_eq!(
        sessions.revoke(alice.token.reveal()).await?.reach,
        Reach::Propagated
    );
    own.redis.config_set("maxmemory", "0").await?;
    until_hit(&sessions, &bob).await?;
    Ok(())
}

/// A managed Redis that won't say who it is.
async fn info_denied(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start(&backends).await?;
    let mut redis = own.redis.connect().await?;
    let rights = ["SETUSER", "poor", "on", ">secret", "~*", "+@all", "-info"];
    let () = redis::cmd("ACL")
        .arg(&rights)
        .query_async(&mut redis)
        .await?;
    let url = own
        .redis
        .url()
        .replacen("redis://", "redis://poor:secret@", 1);
    used_and_nothing_promised(&sessions_on(&url, &own.sandbox).await?).await
}

/// One that has taken the command away.
async fn info_renamed(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start_with(&backends, &["--rename-command", "INFO", ""]).await?;
    used_and_nothing_promised(&own.sessions().await?).await
}

async fn used_and_nothing_promised(sessions: &Sessions) -> Outcome {
    let alice = login(sessions, "alice").await?;
    until_hit(sessions, &alice).await?;
    let changed = sessions.revoke(alice.token.reveal()).await?;
    assert!(
        matches!(changed.reach, Reach::Committed { .. }),
        "{changed:?}"
    );
    assert_eq!(ask(sessions, &alice).await, "invalid");
    Ok(())
}

async fn thousands(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let sessions = sessions_on(sandbox.redis_url(), &sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let many = format!(
        "INSERT INTO {0}.sessions (user_id, token_digest, expires_at)
         SELECT 'alice', sha256(n::text::bytea), now() + interval '1 day' FROM generate_series(1, 3000) n;
         INSERT INTO {0}.sessions (user_id, token_digest, expires_at)
         SELECT 'alice', sha256(n::text::bytea), now() - interval '1 year' FROM generate_series(3001, 9000) n",
        sandbox.schema()
    );
    let mut postgres = backends.postgres().connect().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(many))
        .execute(&mut postgres)
        .await?;
    let changed = sessions.revoke_all("alice").await?;
    assert_eq!((changed.value, changed.reach), (3001, Reach::Propagated));
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    Ok(())
}
