//! A rolling change of the cache. For a while, the nodes of one service use two caches.

use session_layer::cache::RedisCache;
use session_layer::{Sessions, Visibility};
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, built, login, until_hit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_namespace_makes_revocations_committed() -> Outcome {
    let servers = Servers::shared().await?;
    let other = format!("{}-next", servers.namespace());
    while_both_run(&servers, servers.redis.url(), &other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_redis_database_makes_revocations_committed() -> Outcome {
    let servers = Servers::shared().await?;
    let url = servers.redis.url().trim_end_matches('/');
    let (server, _number) = url.split_at(url.find("://").map_or(0, |at| at + 3));
    let address = url[server.len()..].split('/').next().unwrap_or_default();
    let other = format!("{server}{address}/9");
    while_both_run(&servers, &other, servers.namespace()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_redis_server_makes_revocations_committed() -> Outcome {
    let (servers, other) = (Servers::shared().await?, Servers::own_redis().await?);
    while_both_run(&servers, other.redis.url(), servers.namespace()).await
}

async fn revoke(node: &Sessions, user: &str) -> Result<Visibility, Failure> {
    let session = login(node, user).await?;
    until_hit(node, &session).await?;
    Ok(node.revoke(session.token.reveal()).await?.visibility)
}

/// Asserts that no revocation is `Propagated` while a node serves entries from another cache.
async fn while_both_run(servers: &Servers, redis_url: &str, namespace: &str) -> Outcome {
    let old = servers.sessions().await?;
    assert_eq!(revoke(&old, "before").await?, Visibility::Propagated);

    let cache = RedisCache::builder(redis_url).namespace(namespace).deadline(SOON).build()?;
    let new = built(cache, servers.store().await?);
    let alice = login(&old, "alice").await?;
    until_hit(&old, &alice).await?;
    until_hit(&new, &alice).await?;
    for node in [&old, &new] {
        let visibility = revoke(node, "meanwhile").await?;
        assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    }
    // The bound holds although the other cache has the entry.
    let visibility = old.revoke(alice.token.reveal()).await?.visibility;
    let Visibility::Committed { within, .. } = visibility else {
        return Err(format!("{visibility:?}").into());
    };
    wait::until("the journal to end the other entry", within, async || {
        ask(&new, &alice).await == "invalid"
    })
    .await?;

    old.shutdown(SOON).await?;
    assert_eq!(revoke(&new, "after").await?, Visibility::Propagated);
    Ok(())
}
