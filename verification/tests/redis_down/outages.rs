//! Redis is down, slow, or starts late.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::{RevokeTarget, Sessions, Visibility};
use session_testkit::backends::{Backend, Backends};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Outcome, on_each_backend};
use crate::support::{
    SOON, Servers, ask, built, cache_within, login, until_connected, until_disconnected, until_hit,
};

on_each_backend!(redis_killed_is_replaced_by_postgres);
async fn redis_killed_is_replaced_by_postgres(backend: Backend) -> Outcome {
    let backends = Backends::shared(backend).await?;
    let servers = Servers::own_redis_beside(backends.into(), backend, &[]).await?;
    let (sessions, alice) = servers.cached().await?;
    servers.redis.kill().await?;
    for _ in 0..20 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let metrics = sessions.metrics();
    assert!(metrics.errors >= 19, "{metrics:?}");
    // Changes are made, and return their bounds.
    let bob = login(&sessions, "bob").await?;
    let changed = sessions.revoke(bob.token.reveal()).await?;
    assert_eq!(
        changed.visibility,
        Visibility::Committed { within: Duration::from_secs(2), at_most: Duration::from_secs(302) }
    );
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    assert!(!sessions.recent_errors().is_empty());
    servers.redis.restart().await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_slower_than_its_deadline_is_disconnected_until_it_is_fast() -> Outcome {
    let servers = Servers::own_redis().await?;
    let proxy = Proxy::start(servers.redis.address()).await?;
    let (sessions, alice) = servers.cached_at(&proxy.url(servers.redis.url())).await?;
    let slow = proxy.inject(Toxic::latency(Duration::from_millis(700), Duration::ZERO));
    assert_eq!(ask(&sessions, &alice).await, "valid");
    until_disconnected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    slow.heal();
    until_hit(&sessions, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_absent_at_the_start_is_used_once_it_runs() -> Outcome {
    let servers = Servers::own_redis().await?;
    servers.redis.stop().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(sessions.metrics().errors, 1);
    assert!(!sessions.cache_status().connected);
    servers.redis.restart().await?;
    until_hit(&sessions, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_hang_are_replaced() -> Outcome {
    let servers = Servers::own_redis().await?;
    let proxy = Proxy::start(servers.redis.address()).await?;
    let (sessions, alice) = servers.cached_at(&proxy.url(servers.redis.url())).await?;
    let _hang = proxy.inject(Toxic::blackhole());
    assert_eq!(ask(&sessions, &alice).await, "valid");
    until_hit(&sessions, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_closed_by_redis_fail_no_request() -> Outcome {
    let servers = Servers::own_redis().await?;
    // The deadline allows a new connection on a busy machine.
    let deadline = Duration::from_secs(4);
    let cache = cache_within(deadline, servers.redis.url(), &servers.sandbox)?;
    let sessions = built(cache, servers.store().await?);
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    // Redis' `timeout` does the same to idle connections, at other moments.
    let mut redis = servers.redis().await?;
    let before = sessions.metrics();
    for _ in 0..50 {
        let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
        let _: u64 = redis::cmd("CLIENT").arg(&kill).query_async(&mut redis).await?;
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let after = sessions.metrics();
    assert_eq!(after.errors, before.errors, "{:?}", sessions.recent_errors());
    assert_eq!(after.hits, before.hits + 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_under_load_fail_no_request() -> Outcome {
    let servers = Servers::own_redis().await?;
    let proxy = Proxy::start(servers.redis.address()).await?;
    let (sessions, alice) = servers.cached_at(&proxy.url(servers.redis.url())).await?;
    for _ in 0..20 {
        proxy.inject(Toxic::down().established()).heal();
        let replies = join_all((0..50).map(|_| ask(&sessions, &alice))).await;
        assert!(replies.iter().all(|reply| *reply == "valid"), "{replies:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_while_redis_is_paused_is_invalid_afterwards() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    let paused = servers.redis.pause().await?;
    let changed = sessions.revoke(alice.token.reveal()).await?;
    assert!(matches!(changed.visibility, Visibility::Committed { .. }), "{changed:?}");
    assert_eq!(sessions.metrics().pending_invalidations, 1);
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    // Redis still has the entry. This node does not serve it, and removes it.
    paused.resume().await?;
    until_connected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    wait::until("the UNLINK", SOON, async || sessions.metrics().pending_invalidations == 0).await?;
    let other = servers.sessions().await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    Ok(())
}

// Direct SQL ends the session. A node that returned "invalid" does not serve the entry afterwards,
// and removes it, therefore no other node serves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_while_redis_is_paused_stays_invalid() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (one, alice) = servers.cached().await?;
    let other = servers.sessions().await?;
    until_hit(&other, &alice).await?;
    let paused = servers.redis.pause().await?;
    servers.revoke_by_sql(&alice).await?;
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

// Some managed services do not permit INFO, or have renamed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_without_info_is_used_and_nothing_propagated() -> Outcome {
    let servers = Servers::own_redis().await?;
    let rights = ["SETUSER", "poor", "on", ">secret", "~*", "+@all", "-info"];
    let () = redis::cmd("ACL").arg(&rights).query_async(&mut servers.redis().await?).await?;
    let url = servers.redis.url().replacen("redis://", "redis://poor:secret@", 1);
    assert_used_and_nothing_propagated(&servers.sessions_at(&url).await?).await?;
    let renamed = Servers::own_redis_with(&["--rename-command", "INFO", ""]).await?;
    assert_used_and_nothing_propagated(&renamed.sessions().await?).await
}

async fn assert_used_and_nothing_propagated(sessions: &Sessions) -> Outcome {
    let alice = login(sessions, "alice").await?;
    until_hit(sessions, &alice).await?;
    let changed = sessions.revoke(alice.token.reveal()).await?;
    assert!(matches!(changed.visibility, Visibility::Committed { .. }), "{changed:?}");
    assert_eq!(ask(sessions, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sessions_end_in_batches() -> Outcome {
    let servers = Servers::shared().await?;
    let (sessions, alice) = servers.cached().await?;
    servers
        .sql(
            "INSERT INTO sessions (user_id, token_digest, expires_at)
             SELECT 'alice', sha256(n::text::bytea),
               now() + CASE WHEN n > 3000 THEN interval '-1 year' ELSE interval '1 day' END
             FROM generate_series(1, 9000) n",
        )
        .await?;
    let changed = sessions.revoke(RevokeTarget::user("alice")).await?;
    assert_eq!((changed.value, changed.visibility), (3001, Visibility::Propagated));
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    Ok(())
}
