//! A rolling change of where the cache is: for a while, nodes of one service serve copies from two
//! caches.

use session_layer::cache::RedisCache;
use session_layer::{Sessions, Visibility};
use session_testkit::backends::Sandbox;
use session_testkit::wait;

use crate::harness::{Failure, Outcome, shared};
use crate::support::{OwnRedis, SOON, ask, built, login, sessions, store, until_hit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_namespace_makes_revocations_committed() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let other = format!("{}-next", sandbox.namespace());
    while_both_run(&sandbox, sandbox.redis_url(), &other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_redis_database_makes_revocations_committed() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let url = sandbox.redis_url().trim_end_matches('/');
    let (server, _number) = url.split_at(url.find("://").map_or(0, |at| at + 3));
    let address = url[server.len()..].split('/').next().unwrap_or_default();
    let other = format!("{server}{address}/9");
    while_both_run(&sandbox, &other, sandbox.namespace()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_redis_server_makes_revocations_committed() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    while_both_run(&own.sandbox, own.redis.url(), own.sandbox.namespace()).await
}

async fn revoke(node: &Sessions, user: &str) -> Result<Visibility, Failure> {
    let session = login(node, user).await?;
    until_hit(node, &session).await?;
    Ok(node.revoke(session.token.reveal()).await?.visibility)
}

/// `Propagated` says that no node honours the session any more. It is not said while a node serves
/// copies from a cache that the others do not know.
async fn while_both_run(sandbox: &Sandbox, redis_url: &str, namespace: &str) -> Outcome {
    let old = sessions(sandbox).await?;
    assert_eq!(revoke(&old, "before").await?, Visibility::Propagated);

    let cache = RedisCache::builder(redis_url).namespace(namespace).deadline(SOON).build()?;
    let new = built(cache, store(sandbox).await?);
    let alice = login(&old, "alice").await?;
    until_hit(&old, &alice).await?;
    until_hit(&new, &alice).await?;
    for node in [&old, &new] {
        let visibility = revoke(node, "meanwhile").await?;
        assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    }
    // Its bound is kept: the other cache still has the copy.
    let visibility = old.revoke(alice.token.reveal()).await?.visibility;
    let Visibility::Committed { within, .. } = visibility else {
        return Err(format!("{visibility:?}").into());
    };
    wait::until("the journal to end the other copy", within, async || {
        ask(&new, &alice).await == "invalid"
    })
    .await?;

    old.shutdown(SOON).await?;
    assert_eq!(revoke(&new, "after").await?, Visibility::Propagated);
    Ok(())
}
