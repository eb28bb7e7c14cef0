//! The faults of Redis.

use std::{error::Error as _, sync::Arc, time::Duration};

use redis::{AsyncCommands as _, RedisResult, Value, aio::MultiplexedConnection, cmd};
use session_testkit::{
    backends::{Backend, Backends, RedisServer},
    faults::{self, Command, Fault, Target},
    proxy::{Network, Peer},
    wait,
};
use tokio::time::timeout;

use crate::harness::{Failure, Outcome, on_each_backend};

const SECONDS: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(300);

/// Starts servers. A target needs a Postgres too.
async fn start(backend: Backend) -> Result<(Backends, Target), Failure> {
    let backends = Backends::builder().backend(backend).start().await?;
    let target = Target::new(&backends);
    Ok((backends, target))
}

async fn run(connection: &mut MultiplexedConnection, words: &[&str]) -> RedisResult<Value> {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]).query_async(connection).await
}

fn code(result: RedisResult<Value>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

async fn replies(server: &RedisServer) -> bool {
    matches!(timeout(MOMENT, server.ping()).await, Ok(Ok(())))
}

on_each_backend!(redis_killed_or_paused_returns);
async fn redis_killed_or_paused_returns(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let redis = backends.redis();
    let _client = redis.connect().await?;
    for fault in [Fault::RedisKill, Fault::RedisPause] {
        // Healed by a drop, and by `heal`.
        let broken = faults::inject(&fault, &target).await?;
        assert!(!replies(redis).await, "{fault}");
        drop(broken);
        redis.ready().await?;
        let _client = redis.connect().await?;
        let broken = faults::inject(&fault, &target).await?;
        assert!(!replies(redis).await, "{fault}");
        let report = broken.heal().await?;
        assert!(report.touched_something(), "{fault}: {report}");
        redis.ready().await?;
    }
    Ok(())
}

on_each_backend!(redis_old_dump_restores_saved_data);
async fn redis_old_dump_restores_saved_data(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let redis = backends.redis();
    let mut client = redis.connect().await?;
    client.set::<_, _, ()>("k", "old").await?;
    // Changes a key as soon as the dump is written.
    let change = async {
        let saved = wait::until("the SAVE", SECONDS, async || {
            let info: RedisResult<String> = cmd("INFO").query_async(&mut client).await;
            info.is_ok_and(|it| it.contains("rdb_changes_since_last_save:0"))
        });
        saved.await?;
        Ok::<_, Failure>(client.set::<_, _, ()>("k", "new").await?)
    };
    let (broken, changed) = tokio::join!(faults::inject(&Fault::RedisOldDump, &target), change);
    changed?;
    let broken = broken?;
    assert!(!replies(redis).await);
    assert_eq!(broken.heal().await?.effects, Some(1));
    let value: String = redis.connect().await?.get("k").await?;
    assert_eq!(value, "old");
    Ok(())
}

on_each_backend!(redis_flushed_evicts_or_is_full);
async fn redis_flushed_evicts_or_is_full(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let mut client = backends.redis().connect().await?;
    let fill = async |client: &mut MultiplexedConnection| {
        let mut pipe = redis::pipe();
        for n in 0..2000 {
            pipe.set(format!("k{n}"), "x".repeat(5000));
        }
        pipe.exec_async(client).await
    };
    let keys = async |client: &mut MultiplexedConnection| -> RedisResult<u64> {
        cmd("DBSIZE").query_async(client).await
    };
    fill(&mut client).await?;
    let report = faults::inject(&Fault::RedisFlushAll, &target).await?.heal().await?;
    assert_eq!(report.effects, Some(2000));
    assert_eq!(keys(&mut client).await?, 0);

    fill(&mut client).await?;
    let evicting = faults::inject(&Fault::RedisEviction, &target).await?;
    client.set::<_, _, ()>("one", "more").await?;
    let left = keys(&mut client).await?;
    assert!((500..1500).contains(&left), "{left} keys");
    let report = evicting.heal().await?;
    // The report itself may have evicted more.
    assert!(report.effects >= Some(2001 - left), "{report}, {left} keys");
    fill(&mut client).await?;
    assert!(keys(&mut client).await? >= 2000);

    let full = faults::inject(&Fault::RedisOom, &target).await?;
    assert_eq!(code(run(&mut client, &["SET", "k", "v"]).await), "OOM");
    run(&mut client, &["UNLINK", "k1"]).await?;
    run(&mut client, &["GET", "k2"]).await?;
    assert_eq!(full.heal().await?.effects, Some(1));
    run(&mut client, &["SET", "k", "v"]).await?;
    Ok(())
}

on_each_backend!(redis_acl_denies_each_command);
async fn redis_acl_denies_each_command(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let mut client = backends.redis().connect().await?;
    let script: String = cmd("SCRIPT").arg(&["LOAD", "return 1"]).query_async(&mut client).await?;
    let before: Vec<String> = cmd("ACL").arg("LIST").query_async(&mut client).await?;
    for (denied, words) in [
        (Command::Info, vec!["INFO"]),
        (Command::Evalsha, vec!["EVALSHA", &script, "0"]),
        (Command::Set, vec!["SET", "k", "v"]),
        (Command::Get, vec!["GET", "k"]),
        (Command::Client, vec!["CLIENT", "ID"]),
    ] {
        run(&mut client, &words).await?;
        let fault = Fault::RedisAcl(denied);
        let broken = faults::inject(&fault, &target).await?;
        if denied == Command::Client {
            // All connections are closed.
            assert!(run(&mut client, &["PING"]).await.is_err());
            client = backends.redis().connect().await?;
        }
        // Other commands work.
        run(&mut client, &["PING"]).await?;
        assert_eq!(code(run(&mut client, &words).await), "NOPERM", "{fault}");
        let mut new = backends.redis().connect().await?;
        assert_eq!(code(run(&mut new, &words).await), "NOPERM", "{fault}");
        let report = broken.heal().await?;
        assert!(report.touched_something(), "{fault}: {report}");
        run(&mut client, &words).await?;
        let after: Vec<String> = cmd("ACL").arg("LIST").query_async(&mut client).await?;
        assert_eq!(after, before);
    }
    Ok(())
}

on_each_backend!(redis_misconf_refuses_writes);
async fn redis_misconf_refuses_writes(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let mut client = backends.redis().connect().await?;
    let broken = faults::inject(&Fault::RedisMisconf, &target).await?;
    assert_eq!(code(run(&mut client, &["SET", "k", "v"]).await), "MISCONF");
    run(&mut client, &["GET", "k"]).await?;
    assert_eq!(broken.heal().await?.effects, Some(1));
    run(&mut client, &["SET", "k", "v"]).await?;
    // A dump succeeds again.
    backends.redis().save().await?;
    Ok(())
}

on_each_backend!(redis_pauses_clients);
async fn redis_pauses_clients(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let mut client = backends.redis().connect().await?;
    let all = faults::inject(&Fault::RedisClientPause, &target).await?;
    let ping = timeout(MOMENT, run(&mut client, &["PING"])).await;
    assert!(ping.is_err(), "{ping:?}");
    assert!(all.heal().await?.touched_something());
    run(&mut client, &["PING"]).await?;

    let writes = faults::inject(&Fault::RedisClientPauseWrites, &target).await?;
    run(&mut client, &["GET", "k"]).await?;
    let set = timeout(MOMENT, run(&mut client, &["SET", "k", "v"])).await;
    assert!(set.is_err(), "{set:?}");
    drop(writes);
    run(&mut client, &["SET", "k", "v"]).await?;
    Ok(())
}

on_each_backend!(redis_closes_or_refuses_clients);
async fn redis_closes_or_refuses_clients(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let redis = backends.redis();
    let mut client = redis.connect().await?;
    let report = faults::inject(&Fault::RedisClientKill, &target).await?.heal().await?;
    // The last connection of the testkit may still be closing, and then counts too.
    assert!(report.effects >= Some(1), "{report}");
    assert!(run(&mut client, &["PING"]).await.is_err());

    let mut client = redis.connect().await?;
    let full = faults::inject(&Fault::RedisMaxClients, &target).await?;
    assert!(redis.connect().await.is_err());
    assert!(run(&mut client, &["PING"]).await.is_err());
    let report = full.heal().await?;
    assert!(report.effects > Some(0), "{report}");
    redis.connect().await?;
    drop(faults::inject(&Fault::RedisMaxClients, &target).await?);
    redis.connect().await?;
    Ok(())
}

on_each_backend!(redis_fails_over_to_late_replica_and_back);
async fn redis_fails_over_to_late_replica_and_back(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let replica = Backends::builder().backend(backend).start_redis().await?;
    let redis = backends.redis();
    let network = Network::start(1, redis.address(), backends.postgres().address()).await?;
    let network = Arc::new(network);
    let target = target.replica(&replica).network(Arc::clone(&network));
    let proxy = network.proxy(0, Peer::Redis);
    let client = redis::Client::open(proxy.url(redis.url()))?;
    let mut old = client.get_multiplexed_async_connection().await?;
    old.set::<_, _, ()>("k", 0).await?;
    // A client that writes until it is refused.
    let writer = tokio::spawn({
        let mut old = old.clone();
        async move {
            let mut last = 0;
            while old.set::<_, _, ()>("k", last + 1).await.is_ok() {
                last += 1;
                tokio::task::yield_now().await;
            }
            last
        }
    });
    let broken = faults::inject(&Fault::RedisFailover, &target).await?;
    let last = timeout(SECONDS, writer).await??;
    // The old connection leads to a replica. A new one leads to the new master, which lacks writes.
    assert_eq!(code(run(&mut old, &["SET", "k", "v"]).await), "READONLY");
    let mut new = client.get_multiplexed_async_connection().await?;
    let has: i64 = new.get("k").await?;
    assert!(has < last, "{has} of {last}");
    new.set::<_, _, ()>("k", "after").await?;
    let report = broken.heal().await?;
    assert!(report.effects > Some(0), "{report}");
    // The old master is the master again, and has the new one's writes.
    let mut back = client.get_multiplexed_async_connection().await?;
    assert_eq!(back.get::<_, String>("k").await?, "after");
    back.set::<_, _, ()>("k", "back").await?;
    assert_eq!(redis.connect().await?.get::<_, String>("k").await?, "back");
    Ok(())
}

on_each_backend!(redis_demoted_loads_and_is_read_only);
async fn redis_demoted_loads_and_is_read_only(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let replica = Backends::builder().backend(backend).start_redis().await?;
    let target = target.replica(&replica);
    let mut client = backends.redis().connect().await?;
    let mut many = redis::pipe();
    for n in 0..200 {
        many.set(format!("k:{n}"), "x".repeat(500)).ignore();
    }
    let () = many.query_async(&mut client).await?;
    let broken = faults::inject(&Fault::RedisDemotion, &target).await?;
    for (expected, words) in
        [("LOADING", ["GET", "k:0"].as_slice()), ("READONLY", &["SET", "k", "v"])]
    {
        wait::until(expected, SECONDS, async || {
            code(run(&mut client.clone(), words).await) == expected
        })
        .await?;
    }
    let report = broken.heal().await?;
    assert!(report.effects >= Some(2), "{report}");
    run(&mut client, &["SET", "k", "v"]).await?;
    let count: u64 = cmd("DBSIZE").query_async(&mut client).await?;
    assert_eq!(count, 201);
    Ok(())
}

on_each_backend!(redis_leaves_its_network);
async fn redis_leaves_its_network(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let redis = backends.redis();
    let mut client = redis.connect().await?;
    let broken = faults::inject(&Fault::RedisDisconnect, &target).await;
    if backend == Backend::Native {
        let error = broken.expect_err("a process has no separate network");
        let why = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(why.contains("proxy"), "{error}: {why}");
        return Ok(());
    }
    let broken = broken?;
    assert!(run(&mut client, &["PING"]).await.is_err());
    assert!(!replies(redis).await);
    broken.heal().await?;
    redis.ready().await?;
    redis.connect().await?;
    Ok(())
}
