//! A Redis that comes back with its past: restarted from an old dump, demoted and promoted again.
//! What was revoked meanwhile is in there, and is not served.

use redis::AsyncCommands as _;
use session_layer::Visibility;
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Outcome, shared};
use crate::support::{
    OwnRedis, SOON, ask, by_leases_alone, cache, key, login, store, until_connected,
    until_disconnected, until_hit,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_from_an_old_dump_revives_no_session() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    // Else the journal's readers would remove what the dump brings back.
    let node = async || -> Result<_, crate::harness::Failure> {
        let cache = cache(own.redis.url(), &own.sandbox)?;
        by_leases_alone(cache, store(&own.sandbox).await?).await
    };
    let (one, other) = (node().await?, node().await?);
    let alice = login(&one, "alice").await?;
    let bob = login(&one, "bob").await?;
    for node in [&one, &other] {
        until_hit(node, &alice).await?;
        until_hit(node, &bob).await?;
    }
    own.redis.save().await?;
    assert_eq!(one.revoke(alice.token.reveal()).await?.visibility, Visibility::Propagated);
    own.redis.kill().await?;
    own.redis.restart().await?;
    let mut redis = own.redis.connect().await?;
    let back: bool = redis.exists(key(&own.sandbox, &alice)).await?;
    assert!(back, "the dump has brought the copy back, or this test proves nothing");
    for node in [&one, &other] {
        until_connected(node).await?;
        assert_eq!(ask(node, &alice).await, "invalid");
        until_hit(node, &bob).await?;
        assert_eq!(ask(node, &alice).await, "invalid");
    }
    // A node that starts now has no connection from before.
    let new = own.sessions().await?;
    for _ in 0..5 {
        assert_eq!(ask(&new, &alice).await, "invalid");
    }
    Ok(())
}

/// A failover to a replica that has not heard of a revocation, and the same way back. No journal
/// helps here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lagging_replica_promoted_revives_no_session() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let second = OwnRedis::start(&backends).await?;
    let line = Proxy::start(own.redis.address()).await?;
    let start = async || -> Result<_, crate::harness::Failure> {
        let cache = cache(&line.url(own.redis.url()), &own.sandbox)?;
        by_leases_alone(cache, store(&own.sandbox).await?).await
    };
    // What the other one changes, this one does not know.
    let (node, other) = (start().await?, start().await?);
    for (master, replica) in [(&own.redis, &second.redis), (&second.redis, &own.redis)] {
        let alice = login(&node, "alice").await?;
        until_hit(&node, &alice).await?;
        replica.replica_of(Some(master)).await?;
        let mut copy = replica.connect().await?;
        wait::until("the copy on the replica", SOON, async || {
            copy.exists(key(&own.sandbox, &alice)).await.unwrap_or(false)
        })
        .await?;
        // From now on it takes nothing from its master any more.
        replica.replica_of(None).await?;
        let _ = other.revoke(alice.token.reveal()).await?;
        line.set_target(replica.address());
        line.inject(Toxic::down()).heal();
        until_connected(&node).await?;
        let bob = login(&node, "bob").await?;
        wait::until("the new master to be in use", SOON, async || {
            let _ = ask(&node, &bob).await;
            copy.exists(key(&own.sandbox, &bob)).await.unwrap_or(false)
        })
        .await?;
        let back: bool = copy.exists(key(&own.sandbox, &alice)).await?;
        assert!(back, "the copy is there, or this test proves nothing");
        for _ in 0..5 {
            assert_eq!(ask(&node, &alice).await, "invalid");
        }
        until_hit(&node, &bob).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_of_another_and_back_revives_no_session() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let second = OwnRedis::start(&backends).await?;
    let (one, other) = (own.sessions().await?, own.sessions().await?);
    let alice = login(&one, "alice").await?;
    for node in [&one, &other] {
        until_hit(node, &alice).await?;
    }
    // The second has all that the first has, so that the first keeps it when it becomes the
    // replica.
    second.redis.replica_of(Some(&own.redis)).await?;
    let mut copy = second.redis.connect().await?;
    wait::until("the copy on the replica", SOON, async || {
        copy.exists(key(&own.sandbox, &alice)).await.unwrap_or(false)
    })
    .await?;
    // A server that reports a replica counts as replicated by itself: nothing is "propagated"
    // there.
    wait::until("the replica to be noticed", SOON, async || {
        let bob = login(&one, "bob").await.expect("Postgres is up");
        let visibility = one.revoke(bob.token.reveal()).await.expect("Postgres is up").visibility;
        matches!(visibility, Visibility::Committed { .. })
    })
    .await?;
    second.redis.replica_of(None).await?;
    own.redis.replica_of(Some(&second.redis)).await?;
    for node in [&one, &other] {
        until_disconnected(node).await?;
    }
    let visibility = one.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    own.redis.replica_of(None).await?;
    let mut redis = own.redis.connect().await?;
    let back: bool = redis.exists(key(&own.sandbox, &alice)).await?;
    // Only the node that revoked goes on unlinking; until it did, the copy is there for the other.
    eprintln!("the copy is in the promoted server: {back}");
    for node in [&other, &one] {
        until_connected(node).await?;
        for _ in 0..5 {
            assert_eq!(ask(node, &alice).await, "invalid");
        }
    }
    Ok(())
}

/// Its replica has left, with all copies, and may come back as the master: nothing is "propagated".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_left_keeps_revocations_committed() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let second = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    second.redis.replica_of(Some(&own.redis)).await?;
    let mut copy = second.redis.connect().await?;
    wait::until("the copy on the replica", SOON, async || {
        copy.exists(key(&own.sandbox, &alice)).await.unwrap_or(false)
    })
    .await?;
    second.redis.replica_of(None).await?;
    let mut redis = own.redis.connect().await?;
    wait::until("the replica to have left", SOON, async || {
        let info: Result<String, _> =
            redis::cmd("INFO").arg("replication").query_async(&mut redis).await;
        info.is_ok_and(|info| info.contains("connected_slaves:0"))
    })
    .await?;
    // A node that starts now has never seen the replica.
    let new = own.sessions().await?;
    until_hit(&new, &alice).await?;
    let visibility = new.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    assert_eq!(ask(&new, &alice).await, "invalid");
    Ok(())
}
