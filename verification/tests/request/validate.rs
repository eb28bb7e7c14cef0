//! Hit, miss, refill; what is planted in Redis; what a validation costs.

use std::collections::HashSet;

use redis::AsyncCommands as _;
use session_layer::{CacheMode, Visibility};
use session_testkit::backends::Backends;
use session_testkit::wait;

use crate::harness::{Outcome, default_backend, shared};
use crate::support::{OwnRedis, SOON, ask, key, login, sessions, until_connected, until_hit, word};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_asks_postgres_and_fills_then_it_hits() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(sessions.metrics().store_reads, 1);
    until_hit(&sessions, &alice).await?;
    let reads = sessions.metrics().store_reads;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(sessions.metrics().store_reads, reads, "a hit asks Postgres nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_issued_is_invalid() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let unknown = session_layer::SessionToken::generate()?;
    assert_eq!(word(&sessions.validate(unknown.reveal()).await), "invalid");
    assert_eq!(word(&sessions.validate("not a token").await), "invalid");
    assert_eq!(sessions.metrics().store_reads, 1, "what is no token is not looked up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_here_is_invalid_on_every_node_at_once() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (one, other) = (sessions(&sandbox).await?, sessions(&sandbox).await?);
    let alice = login(&one, "alice").await?;
    until_hit(&one, &alice).await?;
    until_hit(&other, &alice).await?;
    until_connected(&one).await?;
    let changed = one.revoke(alice.token.reveal()).await?;
    assert_eq!((changed.value, changed.visibility), (1, Visibility::Propagated));
    assert_eq!(ask(&other, &alice).await, "invalid");
    assert_eq!(ask(&one, &alice).await, "invalid");
    let again = one.revoke(alice.token.reveal()).await?;
    assert_eq!(
        (again.value, again.visibility),
        (0, Visibility::Propagated),
        "calling again is safe"
    );
    let unknown = session_layer::SessionToken::generate()?;
    assert_eq!(one.revoke(unknown.reveal()).await?.visibility, Visibility::Nothing);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refilled_after_flushall() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    own.redis.flush_all().await?;
    let misses = sessions.metrics().misses;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(sessions.metrics().misses, misses + 1);
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_planted_in_redis_is_a_miss_and_replaced() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = backends.redis().connect().await?;
    let good: Vec<u8> = redis.get(key(&sandbox, &alice)).await?;
    let cut = good[..good.len() / 2].to_vec();
    let long = [good.clone(), vec![0; 1_000_000]].concat();
    for planted in [b"garbage".to_vec(), b"V".to_vec(), b"".to_vec(), b"Vp".to_vec(), cut, long] {
        let () = redis.set(key(&sandbox, &alice), &planted).await?;
        let rejected = sessions.cache_status().rejected.total();
        assert_eq!(ask(&sessions, &alice).await, "valid");
        assert_eq!(sessions.cache_status().rejected.total(), rejected + 1, "it is counted");
        until_hit(&sessions, &alice).await?;
    }
    // A revoked session does not come back by a planted value that can't be decoded.
    let _ = sessions.revoke(alice.token.reveal()).await?;
    let () = redis.set(key(&sandbox, &alice), &good[..good.len() - 1]).await?;
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_type_planted_in_redis_is_a_miss_and_removed() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_connected(&sessions).await?;
    let mut redis = backends.redis().connect().await?;
    let () = redis.lpush(key(&sandbox, &alice), "a list").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert!(sessions.cache_status().rejected.total() >= 1);
    let there: bool = redis.exists(key(&sandbox, &alice)).await?;
    assert!(!there, "the list is removed");
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_format_version_is_left_alone() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let mut redis = backends.redis().connect().await?;
    let newer = key(&sandbox, &alice).replace(":2:", ":3:");
    let () = redis.set(&newer, "a newer version's entry").await?;
    until_hit(&sessions, &alice).await?;
    let left: String = redis.get(&newer).await?;
    assert_eq!(left, "a newer version's entry");
    Ok(())
}

/// Two environments by mistake on one Redis and one namespace: each is its own truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_stores_entry_is_never_served() -> Outcome {
    let backends = shared().await?;
    let (ours, theirs) = (backends.sandbox(), backends.sandbox());
    let here = sessions(&ours).await?;
    let alice = login(&here, "alice").await?;
    until_hit(&here, &alice).await?;
    let cache = crate::support::cache(ours.redis_url(), &ours)?;
    let there = crate::support::built(cache, crate::support::store(&theirs).await?);
    // It learns which store is its own by the first answer; then it still must not accept the copy.
    for _ in 0..3 {
        assert_eq!(ask(&there, &alice).await, "invalid");
    }
    assert_eq!(there.metrics().hits, 0);
    assert_eq!(ask(&here, &alice).await, "valid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_asks_postgres_and_still_invalidates() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    until_hit(&sessions, &bob).await?;
    // Its own change a node would know of also without an UNLINK.
    let other = crate::support::sessions(&sandbox).await?;
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
        assert_eq!(ask(node, &alice).await, "invalid", "nothing revoked meanwhile is served");
    }
    until_hit(&sessions, &bob).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_raw_token_in_redis() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = backends.redis().connect().await?;
    let keys: Vec<String> = redis.keys(format!("{}:*", sandbox.namespace())).await?;
    assert_eq!(keys, [key(&sandbox, &alice)]);
    let value: Vec<u8> = redis.get(&keys[0]).await?;
    let token = alice.token.reveal();
    assert!(!keys[0].contains(token));
    assert!(!value.windows(token.len()).any(|part| part == token.as_bytes()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_is_one_get_and_a_miss_one_read_of_postgres() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder()
        .backend(backend)
        .postgres_settings(["log_statement=all"])
        .start()
        .await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = backends.redis().connect().await?;
    let digest = alice.token.digest();
    let digest: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    // The parameters of each statement are logged, after a line's time and process. Other reads may
    // be made meanwhile, not for this token. The log has its last lines alone, so each line is kept
    // once it was seen.
    let mut seen = HashSet::new();
    let mut reads = async || {
        let lines = backends.postgres().logs().await;
        // The first one may be cut.
        let whole = lines.into_iter().filter(|line| line.starts_with("20"));
        seen.extend(whole.filter(|line| line.contains(&digest)));
        seen.len()
    };

    let () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await?;
    let before = reads().await;
    for _ in 0..100 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let stats = command_stats(&mut redis).await?;
    assert_eq!((stats("get"), stats("set"), stats("evalsha")), (100, 0, 0));
    assert_eq!(reads().await, before);

    let () = redis.del(key(&sandbox, &alice)).await?;
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await?;
    let fills = sessions.metrics().fills;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    wait::until("the fill", SOON, async || sessions.metrics().fills == fills + 1).await?;
    wait::until("the read in the log", SOON, async || reads().await == before + 1).await?;
    let stats = command_stats(&mut redis).await?;
    // The script of the fill makes a GET and a SET of its own.
    assert_eq!((stats("get"), stats("set"), stats("evalsha")), (1 + 1, 1 + 1, 1));
    Ok(())
}

/// How often each command was called since the last reset.
async fn command_stats(
    redis: &mut redis::aio::MultiplexedConnection,
) -> Result<impl Fn(&str) -> u64 + use<>, crate::harness::Failure> {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(redis).await?;
    Ok(move |command: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
        line.and_then(|line| line.strip_prefix("calls=")?.split(',').next()?.parse().ok())
            .unwrap_or(0)
    })
}

/// redis-cli COPY: the copy of one session under the key of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_under_another_key_is_never_served() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let (alice, mallory) = (login(&sessions, "alice").await?, login(&sessions, "mallory").await?);
    until_hit(&sessions, &mallory).await?;
    let mut redis = backends.redis().connect().await?;
    let value: Vec<u8> = redis.get(key(&sandbox, &mallory)).await?;
    let () = redis.set(key(&sandbox, &alice), value).await?;
    let seen = sessions.validate(alice.token.reveal()).await;
    assert!(
        matches!(&seen, session_layer::Validation::Valid(session) if session.user_id() == "alice"),
        "{seen:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_ttl_holds_for_the_copies_of_others() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let long = sessions(&sandbox).await?;
    let alice = login(&long, "alice").await?;
    until_hit(&long, &alice).await?;
    let cache = crate::support::cache(sandbox.redis_url(), &sandbox)?;
    let short = session_layer::Sessions::builder(cache, crate::support::store(&sandbox).await?)
        .validation_timeout(SOON)
        .ttl(std::time::Duration::from_secs(1))
        .build()?;
    // Once the copy is older than a second it is a miss for this node, which puts its own there.
    wait::until("a miss", SOON, async || {
        assert_eq!(ask(&short, &alice).await, "valid");
        short.metrics().fills > 0
    })
    .await?;
    let mut redis = backends.redis().connect().await?;
    let left: i64 = redis.pttl(key(&sandbox, &alice)).await?;
    assert!(left <= 1_000, "{left}");
    Ok(())
}
