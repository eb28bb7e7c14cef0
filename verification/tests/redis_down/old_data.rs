//! Redis returns with old data: restarted from an old dump, or demoted and promoted again. Sessions
//! that were revoked meanwhile are in that data, and are not served.

use std::time::Duration;

use redis::AsyncCommands as _;
use session_layer::Visibility;
use session_testkit::backends::RedisServer;
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::Outcome;
use crate::support::{
    SOON, Servers, ask, by_leases_alone, cache_within, login, until_connected, until_disconnected,
    until_hit,
};

async fn until_key(redis: &RedisServer, key: &str) -> Outcome {
    let mut redis = redis.connect().await?;
    wait::until("the entry", SOON, async || redis.exists(key).await.unwrap_or(false)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_from_an_old_dump_revives_no_session() -> Outcome {
    let servers = Servers::own_redis().await?;
    // Readers of the journal would remove the entry that the dump restores.
    let (one, other) = (servers.by_leases_alone().await?, servers.by_leases_alone().await?);
    let alice = login(&one, "alice").await?;
    let bob = login(&one, "bob").await?;
    for node in [&one, &other] {
        until_hit(node, &alice).await?;
        until_hit(node, &bob).await?;
    }
    servers.redis.save().await?;
    assert_eq!(one.revoke(alice.token.reveal()).await?.visibility, Visibility::Propagated);
    servers.redis.kill().await?;
    servers.redis.restart().await?;
    let restored: bool = servers.redis().await?.exists(servers.key(&alice)).await?;
    assert!(restored, "without the entry, this test proves nothing");
    for node in [&one, &other] {
        until_connected(node).await?;
        assert_eq!(ask(node, &alice).await, "invalid");
        until_hit(node, &bob).await?;
        assert_eq!(ask(node, &alice).await, "invalid");
    }
    // A new node has no connection from before the restart.
    let new = servers.sessions().await?;
    for _ in 0..5 {
        assert_eq!(ask(&new, &alice).await, "invalid");
    }
    Ok(())
}

// A failover to a replica without the revocation, and back. The journal is not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lagging_replica_promoted_revives_no_session() -> Outcome {
    let servers = Servers::own_redis().await?;
    let second = Servers::own_redis().await?;
    let line = Proxy::start(servers.redis.address()).await?;
    let url = line.url(servers.redis.url());
    let start = async || {
        let cache = cache_within(Duration::from_millis(500), &url, &servers.sandbox)?;
        by_leases_alone(cache, servers.store().await?).await
    };
    // The node does not know the changes of the other.
    let (node, other) = (start().await?, start().await?);
    for (master, replica) in [(&servers.redis, &second.redis), (&second.redis, &servers.redis)] {
        let alice = login(&node, "alice").await?;
        until_hit(&node, &alice).await?;
        replica.replica_of(Some(master)).await?;
        until_key(replica, &servers.key(&alice)).await?;
        // From now on, the replica receives nothing from its master.
        replica.replica_of(None).await?;
        let _ = other.revoke(alice.token.reveal()).await?;
        line.set_target(replica.address());
        line.inject(Toxic::down()).heal();
        until_connected(&node).await?;
        let bob = login(&node, "bob").await?;
        let mut promoted = replica.connect().await?;
        wait::until("the new master to be in use", SOON, async || {
            let _ = ask(&node, &bob).await;
            promoted.exists(servers.key(&bob)).await.unwrap_or(false)
        })
        .await?;
        let there: bool = promoted.exists(servers.key(&alice)).await?;
        assert!(there, "without the entry, this test proves nothing");
        for _ in 0..5 {
            assert_eq!(ask(&node, &alice).await, "invalid");
        }
        until_hit(&node, &bob).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_of_another_and_back_revives_no_session() -> Outcome {
    let servers = Servers::own_redis().await?;
    let second = Servers::own_redis().await?;
    let (one, alice) = servers.cached().await?;
    let other = servers.sessions().await?;
    until_hit(&other, &alice).await?;
    // The second server has a copy of all data, which the first keeps when it becomes the replica.
    second.redis.replica_of(Some(&servers.redis)).await?;
    until_key(&second.redis, &servers.key(&alice)).await?;
    // A server that reports a replica counts as replicated.
    wait::until("the replica to be noticed", SOON, async || {
        let bob = login(&one, "bob").await.expect("Postgres is up");
        let visibility = one.revoke(bob.token.reveal()).await.expect("Postgres is up").visibility;
        matches!(visibility, Visibility::Committed { .. })
    })
    .await?;
    second.redis.replica_of(None).await?;
    servers.redis.replica_of(Some(&second.redis)).await?;
    for node in [&one, &other] {
        until_disconnected(node).await?;
    }
    let visibility = one.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    servers.redis.replica_of(None).await?;
    for node in [&other, &one] {
        until_connected(node).await?;
        for _ in 0..5 {
            assert_eq!(ask(node, &alice).await, "invalid");
        }
    }
    Ok(())
}

// The replica left with all entries and may return as the master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_left_keeps_revocations_committed() -> Outcome {
    let servers = Servers::own_redis().await?;
    let second = Servers::own_redis().await?;
    let (_, alice) = servers.cached().await?;
    second.redis.replica_of(Some(&servers.redis)).await?;
    until_key(&second.redis, &servers.key(&alice)).await?;
    second.redis.replica_of(None).await?;
    let mut redis = servers.redis().await?;
    wait::until("the replica to have left", SOON, async || {
        let info: Result<String, _> =
            redis::cmd("INFO").arg("replication").query_async(&mut redis).await;
        info.is_ok_and(|info| info.contains("connected_slaves:0"))
    })
    .await?;
    // A new node has never observed the replica.
    let new = servers.sessions().await?;
    until_hit(&new, &alice).await?;
    let visibility = new.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    assert_eq!(ask(&new, &alice).await, "invalid");
    Ok(())
}
