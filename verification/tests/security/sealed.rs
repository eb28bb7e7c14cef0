//! Sealed entries. An attacker who can write to Redis but has no sealing key causes counted misses.

mod attacks;

use std::time::Duration;

use redis::AsyncCommands as _;
use session_layer::cache::{RedisCache, Rejected};
use session_layer::{Created, NewSession, SealingKeys, Sessions, Validation};
use session_testkit::backends::Backend;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, built, login, until_connected, until_hit};

/// Returns keys with these IDs, of which the first seals. The same ID is the same key.
fn keys(ids: &str) -> Result<SealingKeys, Failure> {
    let text: Vec<String> = ids.split(' ').map(|id| format!("{id}:{}A=", id.repeat(42))).collect();
    Ok(text.join(",").parse()?)
}

/// Creates a node that seals with these keys.
async fn sealed_with(ids: &str, servers: &Servers) -> Result<Sessions, Failure> {
    sealed_in(servers.namespace(), ids, servers).await
}

async fn sealed_in(namespace: &str, ids: &str, servers: &Servers) -> Result<Sessions, Failure> {
    let cache = RedisCache::builder(servers.redis.url())
        .namespace(namespace)
        .deadline(Duration::from_millis(500))
        .encryption_keys(keys(ids)?)
        .build()?;
    Ok(built(cache, servers.store().await?))
}

async fn sealed(servers: &Servers) -> Result<Sessions, Failure> {
    sealed_with("a", servers).await
}

/// Creates a sealing node, and a session that it serves from Redis.
async fn sealed_and_cached(servers: &Servers) -> Result<(Sessions, Created), Failure> {
    let sessions = sealed(servers).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    Ok((sessions, alice))
}

fn rejected(sessions: &Sessions) -> Rejected {
    sessions.cache_status().rejected
}

/// Returns the entry of a cached session.
async fn entry(servers: &Servers, created: &Created) -> Result<Vec<u8>, Failure> {
    let value: Vec<u8> = servers.redis().await?.get(servers.key(created)).await?;
    assert_eq!(value[0], b'V', "it is not an entry");
    Ok(value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_a_key_ends_no_session() -> Outcome {
    let servers = Servers::shared().await?;
    let with = async |ids: &str| sealed_with(ids, &servers).await;
    let old = with("a").await?;
    let alice = login(&old, "alice").await?;
    let bob = login(&old, "bob").await?;
    until_hit(&old, &alice).await?;

    // The new key is added, and then put first. Entries of both keys are served.
    let (added, first) = (with("a b").await?, with("b a").await?);
    for node in [&added, &first] {
        until_hit(node, &alice).await?;
        assert_eq!(node.metrics().fills, 0, "an entry of the old key was rejected");
    }
    until_hit(&first, &bob).await?;
    assert_eq!(first.metrics().fills, 1);
    until_hit(&added, &bob).await?;
    assert_eq!(added.metrics().fills, 0, "an entry of the new key was rejected");
    assert_eq!(rejected(&added).total() + rejected(&first).total(), 0);

    // Without the old key, its entries are misses and refilled.
    let last = with("b").await?;
    until_connected(&last).await?;
    until_hit(&last, &alice).await?;
    assert_eq!((rejected(&last).unknown_key, last.metrics().fills), (1, 1));
    until_hit(&last, &bob).await?;
    assert_eq!((rejected(&last).unknown_key, last.metrics().fills), (1, 1));
    // A node with only the old key reads Postgres.
    for created in [&alice, &bob] {
        assert_eq!(ask(&old, created).await, "valid");
    }
    assert_eq!(rejected(&old).unknown_key, 2);
    Ok(())
}

// While keys are rolled out, misses cost reads of Postgres.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_and_unsealed_nodes_side_by_side() -> Outcome {
    let servers = Servers::shared().await?;
    let (plain, sealed) = (servers.sessions().await?, sealed(&servers).await?);
    let alice = login(&plain, "alice").await?;
    for _ in 0..3 {
        until_hit(&plain, &alice).await?;
        until_hit(&sealed, &alice).await?;
    }
    assert!(rejected(&plain).unknown_key >= 2, "{:?}", rejected(&plain));
    assert!(rejected(&sealed).unsealed >= 3, "{:?}", rejected(&sealed));
    let _ = sealed.revoke(alice.token.reveal()).await?;
    for node in [&plain, &sealed] {
        assert_eq!(ask(node, &alice).await, "invalid");
    }
    Ok(())
}

const USER: &str = "a-secret-user";
const DATA: &str = "secret data";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_and_its_dump_show_nothing_of_a_sealed_session() -> Outcome {
    assert!(!user_is_shown(true).await?);
    assert!(user_is_shown(false).await?, "otherwise this test proves nothing");
    Ok(())
}

/// Returns whether a command or the dump of Redis shows the user or the data.
async fn user_is_shown(seal: bool) -> Result<bool, Failure> {
    let servers = Servers::own_redis_with(&["--rdbcompression", "no"]).await?;
    let sessions = if seal { sealed(&servers).await? } else { servers.sessions().await? };
    let created = sessions.create(NewSession::new(USER).data(DATA)).await?;
    until_hit(&sessions, &created).await?;
    let mut redis = servers.redis().await?;
    let keys: Vec<String> = redis.keys("*").await?;
    assert!(keys.contains(&servers.key(&created)));
    let mut all = keys.join(" ").into_bytes();
    for key in &keys {
        let dumped: Vec<u8> = redis::cmd("DUMP").arg(key).query_async(&mut redis).await?;
        all.extend(dumped);
    }
    if servers.redis.backend() == Some(Backend::Native) {
        servers.redis.save().await?;
        let folder: Vec<String> =
            redis::cmd("CONFIG").arg(&["GET", "dir"]).query_async(&mut redis).await?;
        let dump = std::fs::read(format!("{}/dump.rdb", folder[1]))?;
        assert!(contains(&dump, &entry(&servers, &created).await?), "the dump has no entry");
        all.extend(dump);
    }
    assert!(!contains(&all, created.token.reveal().as_bytes()), "a raw token");
    sessions.shutdown(SOON).await?;
    Ok([USER, DATA].iter().any(|text| contains(&all, text.as_bytes())))
}

fn contains(all: &[u8], text: &[u8]) -> bool {
    all.windows(text.len()).any(|window| window == text)
}

// Numbers keep their text. With 300 digits each, they would be megabytes and never be cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_data_is_cached_byte_for_byte() -> Outcome {
    let servers = Servers::shared().await?;
    let sessions = sealed(&servers).await?;
    let numbers = vec![1e300; 9_000];
    let written = serde_json::to_string(&numbers)?;
    let created = sessions.create(NewSession::new("alice").data(numbers)).await?;
    until_hit(&sessions, &created).await?;
    let Validation::Valid(session) = sessions.validate(created.token.reveal()).await else {
        return Err("it is valid".into());
    };
    assert_eq!(session.data_json(), written);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_reports_whether_entries_are_sealed() -> Outcome {
    let servers = Servers::shared().await?;
    let (plain, sealed) = (servers.sessions().await?, sealed(&servers).await?);
    for (node, expected) in [(&plain, false), (&sealed, true)] {
        until_connected(node).await?;
        let report = node.health().await;
        assert_eq!(report.sealed, Some(expected));
        // A missing key is no error.
        assert!(report.errors.is_empty(), "{:?}", report.errors);
    }
    Ok(())
}
