//! Near caches on real servers: what a change on another node means for them, and what an outage of
//! Redis does not.

use std::time::Duration;

use session_layer::defaults::DEFAULT_JOURNAL_INTERVAL;
use session_layer::{Created, NewSession, Sessions, Visibility};
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, login};

const MIB: usize = 1 << 20;
/// The staleness bound with the default interval.
const D: Duration = DEFAULT_JOURNAL_INTERVAL.saturating_mul(4);

async fn node(servers: &Servers) -> Result<Sessions, Failure> {
    let builder = Sessions::builder(servers.cache()?, servers.store().await?);
    Ok(builder.near_cache(MIB).build()?)
}

/// Validates until the reply comes from the near cache.
async fn until_near_hit(sessions: &Sessions, created: &Created) -> Outcome {
    wait::until("a hit in the near cache", SOON, async || {
        let hits = sessions.metrics().near_hits;
        assert_eq!(ask(sessions, created).await, "valid");
        sessions.metrics().near_hits > hits
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_of_another_node_is_honored_within_d() -> Outcome {
    let servers = Servers::shared().await?;
    let (near, other) = (node(&servers).await?, servers.sessions().await?);
    let (alice, bob) = (login(&near, "alice").await?, login(&near, "bob").await?);
    until_near_hit(&near, &alice).await?;
    until_near_hit(&near, &bob).await?;
    // The node without a near cache finds the registration of the one with it.
    let applied = other.revoke(alice.token.reveal()).await?;
    let Visibility::Committed { within, .. } = applied.visibility else {
        panic!("{:?}, although another node has a near cache", applied.visibility);
    };
    assert_eq!(within, D);
    // It waits for the bound.
    let ended = other.revoke(bob.token.reveal()).wait(Duration::from_secs(60)).await?;
    assert!(
        matches!(ended.visibility, Visibility::Committed { within, .. } if within.is_zero()),
        "{:?}",
        ended.visibility
    );
    assert_eq!(ask(&near, &bob).await, "invalid");
    assert_eq!(ask(&near, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_alone_propagates_its_changes() -> Outcome {
    let servers = Servers::own_redis().await?;
    let near = node(&servers).await?;
    let alice = login(&near, "alice").await?;
    until_near_hit(&near, &alice).await?;
    let applied = near.revoke(alice.token.reveal()).await?;
    assert_eq!(ask(&near, &alice).await, "invalid");
    assert_eq!(applied.visibility, Visibility::Propagated);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_of_redis_costs_one_read_of_each_session() -> Outcome {
    let servers = Servers::own_redis().await?;
    let near = node(&servers).await?;
    let mut active = Vec::new();
    for n in 0..20 {
        active.push(near.create(NewSession::new(format!("user-{n}"))).await?);
    }
    for session in &active {
        until_near_hit(&near, session).await?;
    }
    let unseen = login(&near, "unseen").await?;
    let (reads, hits) = (near.metrics().store_reads, near.metrics().near_hits);
    servers.redis.kill().await?;
    for session in &active {
        assert_eq!(ask(&near, session).await, "valid");
    }
    let metrics = near.metrics();
    assert_eq!((metrics.store_reads - reads, metrics.near_hits - hits), (0, 20));
    // One that this node sees for the first time.
    let first = metrics.store_reads;
    for _ in 0..3 {
        assert_eq!(ask(&near, &unseen).await, "valid");
    }
    assert_eq!(near.metrics().store_reads - first, 1);
    // A revocation is still visible here at once.
    let _committed = near.revoke(active[0].token.reveal()).await?;
    assert_eq!(ask(&near, &active[0]).await, "invalid");
    Ok(())
}
