//! Hits, misses and refills, what other clients write to Redis, and what a validation costs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use session_layer::cache::MemoryCache;
use session_layer::store::SqliteStore;
use session_layer::{CacheMode, SessionToken, Sessions, Validation, Visibility};
use session_testkit::backends::Backends;
use session_testkit::wait;

use crate::harness::{Failure, Outcome, default_backend};
use crate::support::{SOON, Servers, ask, built, login, until_connected, until_hit, word};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_token_is_invalid_and_other_text_is_not_looked_up() -> Outcome {
    let sessions = built(MemoryCache::new(100), SqliteStore::open(":memory:").await?);
    let unknown = SessionToken::generate()?;
    assert_eq!(word(&sessions.validate(unknown.reveal()).await), "invalid");
    assert_eq!(word(&sessions.validate("not a token").await), "invalid");
    assert_eq!(sessions.metrics().store_reads, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_redis_is_refilled_without_revoked_sessions() -> Outcome {
    let servers = Servers::own_redis().await?;
    let sessions = servers.sessions().await?;
    let (alice, bob) = (login(&sessions, "alice").await?, login(&sessions, "bob").await?);
    until_hit(&sessions, &alice).await?;
    let _ = sessions.revoke(bob.token.reveal()).await?;
    servers.redis.flush_all().await?;
    let misses = sessions.metrics().misses;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(sessions.metrics().misses, misses + 1);
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    until_hit(&sessions, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_redis_is_a_miss_and_replaced() -> Outcome {
    let servers = Servers::shared().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = servers.redis().await?;
    let good: Vec<u8> = redis.get(servers.key(&alice)).await?;
    let cut = good[..good.len() / 2].to_vec();
    let long = [good.clone(), vec![0; 1_000_000]].concat();
    for planted in [b"garbage".to_vec(), b"V".to_vec(), b"".to_vec(), b"Vp".to_vec(), cut, long] {
        let () = redis.set(servers.key(&alice), &planted).await?;
        let rejected = sessions.cache_status().rejected.total();
        assert_eq!(ask(&sessions, &alice).await, "valid");
        assert_eq!(sessions.cache_status().rejected.total(), rejected + 1);
        until_hit(&sessions, &alice).await?;
    }
    let () = redis.del(servers.key(&alice)).await?;
    let () = redis.lpush(servers.key(&alice), "a list").await?;
    let rejected = sessions.cache_status().rejected.total();
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert!(sessions.cache_status().rejected.total() > rejected, "a value of another type");
    until_hit(&sessions, &alice).await?;
    // A value that cannot be decoded does not revive a revoked session.
    let _ = sessions.revoke(alice.token.reveal()).await?;
    let () = redis.set(servers.key(&alice), &good[..good.len() - 1]).await?;
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_of_another_format_version_is_kept() -> Outcome {
    let servers = Servers::shared().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    let mut redis = servers.redis().await?;
    let newer = servers.key(&alice).replace(":2:", ":3:");
    let () = redis.set(&newer, "a newer version's entry").await?;
    until_hit(&sessions, &alice).await?;
    let left: String = redis.get(&newer).await?;
    assert_eq!(left, "a newer version's entry");
    Ok(())
}

// Two environments use one Redis and one namespace by mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_of_another_store_is_not_served() -> Outcome {
    let ours = Servers::shared().await?;
    let theirs = Servers::on(Arc::clone(&ours.backends));
    let here = ours.sessions().await?;
    let alice = login(&here, "alice").await?;
    until_hit(&here, &alice).await?;
    let there = built(ours.cache()?, theirs.store().await?);
    // The first reply identifies its own store. The entry is rejected before and after it.
    for _ in 0..3 {
        assert_eq!(ask(&there, &alice).await, "invalid");
    }
    assert_eq!(there.metrics().hits, 0);
    assert_eq!(ask(&here, &alice).await, "valid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_reads_postgres_and_still_invalidates() -> Outcome {
    let servers = Servers::shared().await?;
    let (sessions, other) = (servers.sessions().await?, servers.sessions().await?);
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &bob).await?;
    // The node itself would know of its change without an UNLINK.
    until_hit(&other, &alice).await?;
    sessions.set_mode(CacheMode::Bypass);
    assert_eq!(sessions.mode(), CacheMode::Bypass);
    let before = sessions.metrics();
    assert_eq!(ask(&sessions, &alice).await, "valid");
    let after = sessions.metrics();
    assert_eq!((after.total(), after.bypassed), (before.total(), before.bypassed + 1));
    assert_eq!(after.store_reads, before.store_reads + 1);
    let changed = sessions.revoke(alice.token.reveal()).await?;
    assert_eq!(changed.visibility, Visibility::Propagated);
    sessions.set_mode(CacheMode::On);
    for node in [&other, &sessions] {
        assert_eq!(ask(node, &alice).await, "invalid");
    }
    until_hit(&sessions, &bob).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hit_is_one_get_and_miss_one_read_of_postgres() -> Outcome {
    let backends = Backends::builder()
        .backend(default_backend().await?)
        .postgres_settings(["log_statement=all"])
        .start()
        .await?;
    let servers = Servers::on(Arc::new(backends));
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = servers.redis().await?;
    let digest = alice.token.digest();
    let digest: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    // Postgres logs the parameters of each statement after a line's time and process. Reads without
    // this token do not count. `logs` returns only the last lines, therefore each line is kept.
    let mut seen = HashSet::new();
    let mut reads = async || {
        let lines = servers.postgres().logs().await;
        // The first line may be truncated.
        let whole = lines.into_iter().filter(|line| line.starts_with("20"));
        seen.extend(whole.filter(|line| line.contains(&digest)));
        seen.len()
    };

    let () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await?;
    let (before, store_reads) = (reads().await, sessions.metrics().store_reads);
    for _ in 0..100 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let stats = command_stats(&mut redis).await?;
    assert_eq!((stats("get"), stats("set"), stats("evalsha")), (100, 0, 0));
    assert_eq!((reads().await, sessions.metrics().store_reads), (before, store_reads));

    let () = redis.del(servers.key(&alice)).await?;
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await?;
    let fills = sessions.metrics().fills;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    wait::until("the fill", SOON, async || sessions.metrics().fills == fills + 1).await?;
    wait::until("the read in the log", SOON, async || reads().await == before + 1).await?;
    let stats = command_stats(&mut redis).await?;
    // The script of the fill executes one more GET and SET.
    assert_eq!((stats("get"), stats("set"), stats("evalsha")), (1 + 1, 1 + 1, 1));
    Ok(())
}

/// Returns how often each command was called since the last reset.
async fn command_stats(
    redis: &mut MultiplexedConnection,
) -> Result<impl Fn(&str) -> u64 + use<>, Failure> {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(redis).await?;
    Ok(move |command: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
        line.and_then(|line| line.strip_prefix("calls=")?.split(',').next()?.parse().ok())
            .unwrap_or(0)
    })
}

// As `redis-cli COPY` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_under_another_key_is_not_served() -> Outcome {
    let servers = Servers::shared().await?;
    let sessions = servers.sessions().await?;
    let (alice, mallory) = (login(&sessions, "alice").await?, login(&sessions, "mallory").await?);
    until_hit(&sessions, &mallory).await?;
    let mut redis = servers.redis().await?;
    let value: Vec<u8> = redis.get(servers.key(&mallory)).await?;
    let () = redis.set(servers.key(&alice), value).await?;
    let seen = sessions.validate(alice.token.reveal()).await;
    assert!(
        matches!(&seen, Validation::Valid(session) if session.user_id() == "alice"),
        "{seen:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shorter_ttl_limits_the_entries_of_other_nodes() -> Outcome {
    let servers = Servers::shared().await?;
    let long = servers.sessions().await?;
    let alice = login(&long, "alice").await?;
    until_hit(&long, &alice).await?;
    let short = Sessions::builder(servers.cache()?, servers.store().await?)
        .validation_timeout(SOON)
        .ttl(Duration::from_secs(1))
        .build()?;
    until_connected(&short).await?;
    // Once the entry is older than a second, it is a miss for this node, which writes its own.
    wait::until("a miss", SOON, async || {
        assert_eq!(ask(&short, &alice).await, "valid");
        short.metrics().fills > 0
    })
    .await?;
    let left: i64 = servers.redis().await?.pttl(servers.key(&alice)).await?;
    assert!(left <= 1_000, "{left}");
    Ok(())
}
