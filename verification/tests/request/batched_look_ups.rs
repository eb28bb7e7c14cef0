//! Look-ups of concurrent requests travel together, and none waits for another.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use session_layer::{Created, Sessions};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use tokio::time::Instant;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, built, cache_within, login, until_hit, word};

/// The number of requests at once: fewer than one batch may have.
const REQUESTS: u64 = 50;

/// The round trip of a Redis that is far away.
const FAR: Duration = Duration::from_secs(15);

/// The calls that Redis has counted of one command: executed and rejected ones.
type Calls = (u64, u64);

async fn calls(redis: &mut MultiplexedConnection) -> Result<HashMap<String, Calls>, Failure> {
    let info: String = cmd("INFO").arg("commandstats").query_async(redis).await?;
    let number = |line: &str, name: &str| {
        let field = line.split([',', ':']).find_map(|field| field.strip_prefix(name));
        field.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'));
    Ok(lines
        .map(|(name, line)| {
            (name.to_owned(), (number(line, "calls="), number(line, "rejected_calls=")))
        })
        .collect())
}

/// Validates the session by many requests at once. Returns what Redis has counted of GET and MGET.
async fn at_once(
    redis: &mut MultiplexedConnection,
    sessions: &Sessions,
    session: &Created,
) -> Result<(Calls, Calls), Failure> {
    let () = cmd("CONFIG").arg("RESETSTAT").query_async(redis).await?;
    let hits = sessions.metrics().hits;
    for answer in join_all((0..REQUESTS).map(|_| ask(sessions, session))).await {
        assert_eq!(answer, "valid");
    }
    assert_eq!(sessions.metrics().hits - hits, REQUESTS);
    let calls = calls(redis).await?;
    let of = |name| calls.get(name).copied().unwrap_or_default();
    Ok((of("get"), of("mget")))
}

// With one thread, the requests run until each waits for Redis. The order is therefore certain.
#[tokio::test]
async fn concurrent_look_ups_are_one_command() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    let mut redis = servers.redis().await?;
    let (get, mget) = at_once(&mut redis, &sessions, &alice).await?;
    assert_eq!(get, (1, 0), "the first request is alone");
    assert_eq!(mget, (1, 0), "the others travel together");
    Ok(())
}

#[tokio::test]
async fn redis_that_denies_mget_gets_a_get_for_each() -> Outcome {
    let servers = Servers::own_redis().await?;
    let mut redis = servers.redis().await?;
    let user = ["SETUSER", "poor", "on", ">secret", "~*", "+@all", "-mget"];
    let () = cmd("ACL").arg(&user).query_async(&mut redis).await?;
    let url = servers.redis.url().replacen("redis://", "redis://poor:secret@", 1);
    let (sessions, alice) = servers.cached_at(&url).await?;
    let (get, mget) = at_once(&mut redis, &sessions, &alice).await?;
    assert_eq!((get, mget), ((REQUESTS, 0), (0, 1)));
    // The node has learnt it.
    let (get, mget) = at_once(&mut redis, &sessions, &alice).await?;
    assert_eq!((get, mget), ((REQUESTS, 0), (0, 0)));
    Ok(())
}

// MGET reports a value of a wrong type as missing. It must not stay in the way of fills.
#[tokio::test]
async fn value_of_a_wrong_type_is_replaced() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &bob).await?;
    let mut redis = servers.redis().await?;
    let key = servers.key(&alice);
    let () = redis::pipe().del(&key).rpush(&key, "x").query_async(&mut redis).await?;
    let rejected = sessions.cache_status().rejected.undecodable;
    // Two requests are in flight before those of Alice, which therefore are in one batch with them.
    let requests = [&bob, &bob, &alice, &bob].map(|session| ask(&sessions, session));
    assert_eq!(join_all(requests).await, ["valid"; 4]);
    assert_eq!(sessions.cache_status().rejected.undecodable, rejected + 1);
    let exists: bool = cmd("EXISTS").arg(&key).query_async(&mut redis).await?;
    assert!(!exists, "the list is removed");
    until_hit(&sessions, &alice).await
}

#[tokio::test]
async fn request_that_is_not_polled_stops_no_other() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    // The first request sends its own GET, and the second one joins a batch.
    let (mut first, mut second) = (pin!(ask(&sessions, &alice)), pin!(ask(&sessions, &alice)));
    poll_fn(|cx| {
        assert!(first.as_mut().poll(cx).is_pending());
        assert!(second.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let hits = sessions.metrics().hits;
    let others = (0..REQUESTS).map(|_| ask(&sessions, &alice));
    assert!(join_all(others).await.into_iter().all(|answer| answer == "valid"));
    assert_eq!(sessions.metrics().hits - hits, REQUESTS, "no deadline was missed");
    Ok(())
}

// The replies take 15 s, so that no sender is free again. Each look-up is still sent at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distant_redis_delays_no_look_up() -> Outcome {
    let servers = Servers::own_redis().await?;
    let proxy = Proxy::start(servers.redis.address()).await?;
    let url = proxy.url(servers.redis.url());
    let cache = cache_within(SOON, &url, &servers.sandbox)?;
    let sessions = built(cache, servers.store().await?);
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = servers.redis().await?;
    let () = cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await?;
    let far = proxy.inject(Toxic::latency(FAR, Duration::ZERO));
    let mut asking = Vec::new();
    let began = Instant::now();
    for sent in 1..=8 {
        let (sessions, token) = (sessions.clone(), alice.token.clone());
        asking.push(tokio::spawn(async move { word(&sessions.validate(&token).await) }));
        wait::until("Redis to receive the look-up", SOON, async || {
            let calls = calls(&mut redis.clone()).await.unwrap_or_default();
            let of = |name| calls.get(name).map_or(0, |(executed, _)| *executed);
            of("get") + of("mget") >= sent
        })
        .await?;
    }
    let took = began.elapsed();
    far.heal();
    for asked in asking {
        assert_eq!(asked.await?, "valid");
    }
    assert!(took < FAR, "some waited for a reply: {took:?}");
    Ok(())
}
