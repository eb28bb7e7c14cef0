//! What somebody who can write to Redis can do without a sealing key: cost a miss, and be counted.

mod attacks;

use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use session_layer::cache::{RedisCache, Rejected};
use session_layer::{Created, NewSession, SealingKeys, Sessions, Validation};
use session_testkit::backends::{Backend, Backends, Sandbox};

use crate::harness::{Failure, Outcome, shared};
use crate::support::{
    OwnRedis, SOON, ask, built, key, login, sessions, store, until_connected, until_hit,
};

/// Keys with these IDs, the first of them to seal with; the same ID is the same key.
fn keys(ids: &str) -> Result<SealingKeys, Failure> {
    let text: Vec<String> = ids.split(' ').map(|id| format!("{id}:{}A=", id.repeat(42))).collect();
    Ok(text.join(",").parse()?)
}

/// A node that seals with these keys.
async fn sealed_on(redis_url: &str, sandbox: &Sandbox, ids: &str) -> Result<Sessions, Failure> {
    sealed_in(redis_url, sandbox.namespace(), sandbox, ids).await
}

async fn sealed_in(
    redis_url: &str,
    namespace: &str,
    sandbox: &Sandbox,
    ids: &str,
) -> Result<Sessions, Failure> {
    let cache = RedisCache::builder(redis_url)
        .namespace(namespace)
        .deadline(std::time::Duration::from_millis(500))
        .encryption_keys(keys(ids)?)
        .build()?;
    Ok(built(cache, store(sandbox).await?))
}

async fn sealed(sandbox: &Sandbox) -> Result<Sessions, Failure> {
    sealed_on(sandbox.redis_url(), sandbox, "a").await
}

fn rejected(sessions: &Sessions) -> Rejected {
    sessions.cache_status().rejected
}

/// The value of a session that is in the cache by now.
async fn value(
    redis: &mut MultiplexedConnection,
    sandbox: &Sandbox,
    created: &Created,
) -> Result<Vec<u8>, Failure> {
    let value: Vec<u8> = redis.get(key(sandbox, created)).await?;
    assert_eq!(value[0], b'V', "it is not an entry");
    Ok(value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_replaced_and_nobody_logged_out() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let with = async |ids: &str| sealed_on(sandbox.redis_url(), &sandbox, ids).await;
    let old = with("a").await?;
    let alice = login(&old, "alice").await?;
    let bob = login(&old, "bob").await?;
    until_hit(&old, &alice).await?;

    // Added behind, then put first: what the old one sealed is served, and what the new one seals
    // as well.
    let (added, first) = (with("a b").await?, with("b a").await?);
    for node in [&added, &first] {
        until_hit(node, &alice).await?;
        assert_eq!(node.metrics().fills, 0, "the old key opens");
    }
    until_hit(&first, &bob).await?;
    assert_eq!(first.metrics().fills, 1);
    until_hit(&added, &bob).await?;
    assert_eq!(added.metrics().fills, 0, "the new key opens");
    assert_eq!(rejected(&added).total() + rejected(&first).total(), 0);

    // The old one is taken away: a miss and a refill.
    let last = with("b").await?;
    until_connected(&last).await?;
    until_hit(&last, &alice).await?;
    assert_eq!((rejected(&last).unknown_key, last.metrics().fills), (1, 1));
    until_hit(&last, &bob).await?;
    assert_eq!((rejected(&last).unknown_key, last.metrics().fills), (1, 1));
    // A node that was left behind lets everybody in, too.
    for created in [&alice, &bob] {
        assert_eq!(ask(&old, created).await, "valid");
    }
    assert_eq!(rejected(&old).unknown_key, 2);
    Ok(())
}

/// While keys are rolled out: misses, and right answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_and_unsealed_nodes_side_by_side() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (plain, sealed) = (sessions(&sandbox).await?, sealed(&sandbox).await?);
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

const USER: &str = "a-user-that-nobody-is-to-read";
const DATA: &str = "data that nobody is to read";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_and_its_dump_show_nothing_of_a_session() -> Outcome {
    let backends = shared().await?;
    assert!(!user_is_shown(&backends, true).await?);
    assert!(user_is_shown(&backends, false).await?, "or this test proves nothing");
    Ok(())
}

/// Does Redis show the user or its data, by any command or in its dump?
async fn user_is_shown(backends: &Backends, seal: bool) -> Result<bool, Failure> {
    let own = OwnRedis::start_with(backends, &["--rdbcompression", "no"]).await?;
    let sessions = if seal {
        sealed_on(own.redis.url(), &own.sandbox, "a").await?
    } else {
        own.sessions().await?
    };
    let created = sessions.create(NewSession::new(USER).data(DATA)).await?;
    until_hit(&sessions, &created).await?;
    let mut redis = own.redis.connect().await?;
    let keys: Vec<String> = redis.keys("*").await?;
    assert!(keys.contains(&key(&own.sandbox, &created)));
    let mut all = keys.join(" ").into_bytes();
    for key in &keys {
        let dumped: Vec<u8> = redis::cmd("DUMP").arg(key).query_async(&mut redis).await?;
        all.extend(dumped);
    }
    if own.redis.backend() == Some(Backend::Native) {
        own.redis.save().await?;
        let folder: Vec<String> =
            redis::cmd("CONFIG").arg(&["GET", "dir"]).query_async(&mut redis).await?;
        let dump = std::fs::read(format!("{}/dump.rdb", folder[1]))?;
        let entry = value(&mut redis, &own.sandbox, &created).await?;
        assert!(contains(&dump, &entry), "the dump has the entry in it");
        all.extend(dump);
    }
    let token = created.token.reveal().as_bytes();
    assert!(!contains(&all, token), "a raw token is nowhere");
    sessions.shutdown(SOON).await?;
    Ok([USER, DATA].iter().any(|text| contains(&all, text.as_bytes())))
}

fn contains(all: &[u8], text: &[u8]) -> bool {
    all.windows(text.len()).any(|window| window == text)
}

/// Numbers come back as they were written. As 300 digits each they would be megabytes, and never
/// cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_data_is_cached_byte_for_byte() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sealed(&sandbox).await?;
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
async fn health_says_whether_entries_are_sealed() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (plain, sealed) = (sessions(&sandbox).await?, sealed(&sandbox).await?);
    for (node, expected) in [(&plain, false), (&sealed, true)] {
        until_connected(node).await?;
        let report = node.health().await;
        assert_eq!(report.sealed, Some(expected));
        // A missing key is said there, and is no error.
        assert!(report.errors.is_empty(), "{:?}", report.errors);
    }
    Ok(())
}
