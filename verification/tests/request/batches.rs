//! Concurrent look-ups in Redis, which travel together.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use session_layer::cache::{EntryVerdict, Lookup, SessionCache as _};
use session_layer::{Sessions, TokenDigest, Validation};
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, cache_within, login, until_hit};

const USERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_look_ups_travel_together() -> Outcome {
    let servers = Servers::own_redis().await?;
    let commands = commands_of_concurrent_hits(&servers).await?;
    assert!(commands.mget > 0 && commands.get + commands.mget < 30, "{commands:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_travel_together_although_mget_is_denied() -> Outcome {
    let servers = Servers::own_redis().await?;
    let deny = ["SETUSER", "default", "-mget"];
    let () = redis::cmd("ACL").arg(&deny).query_async(&mut servers.redis().await?).await?;
    let commands = commands_of_concurrent_hits(&servers).await?;
    assert_eq!((commands.get, commands.mget), (USERS, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_that_leaves_does_not_hold_a_batch_up() -> Outcome {
    let servers = Servers::own_redis().await?;
    let cache = cache_within(SOON, servers.redis.url(), &servers.sandbox)?;
    let digest = [TokenDigest::of("a token")];
    let verdict = |_: &_| EntryVerdict::Fresh;
    let first = cache.get(&digest, &verdict).await;
    assert!(matches!(first[..], [Lookup::Leased(_)]), "{first:?}");
    let pause = servers.redis.pause().await?;
    let mut callers: Vec<_> = (0..20).map(|_| Box::pin(cache.get(&digest, &verdict))).collect();
    for caller in &mut callers {
        assert!(poll_once(caller.as_mut()).await.is_pending());
    }
    let last = callers.pop().ok_or("a caller")?;
    drop(callers);
    pause.resume().await?;
    let last = last.await;
    assert!(matches!(last[..], [Lookup::DoNotFill]), "{last:?}");
    Ok(())
}

/// The number of commands that Redis executed.
#[derive(Debug, Clone, Copy)]
struct Commands {
    get: usize,
    mget: usize,
}

/// Validates the sessions of many users at once. Each must get its own session from the cache.
/// Returns the commands that this took.
async fn commands_of_concurrent_hits(servers: &Servers) -> Result<Commands, Failure> {
    let sessions = servers.sessions().await?;
    let names: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let mut users = Vec::new();
    for name in &names {
        users.push(login(&sessions, name).await?);
    }
    until_hit(&sessions, &users[0]).await?;
    let validate_all = async |sessions: &Sessions| {
        join_all(users.iter().map(|user| sessions.validate(user.token.reveal()))).await
    };
    wait::until("a hit for each", SOON, async || {
        let hits = sessions.metrics().hits;
        validate_all(&sessions).await;
        sessions.metrics().hits == hits + USERS as u64
    })
    .await?;
    let mut redis = servers.redis().await?;
    let before = executed(&mut redis).await?;
    for (name, answer) in names.iter().zip(validate_all(&sessions).await) {
        assert!(matches!(&answer, Validation::Valid(session) if session.user_id() == name));
    }
    let after = executed(&mut redis).await?;
    Ok(Commands { get: after.get - before.get, mget: after.mget - before.mget })
}

async fn executed(redis: &mut MultiplexedConnection) -> Result<Commands, Failure> {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(redis).await?;
    let calls = |command: &str| {
        let line = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|stat| stat.strip_prefix(&line)?.split(',').next());
        calls.map_or(Ok(0), str::parse)
    };
    // A command that is denied is not a call.
    Ok(Commands { get: calls("get")?, mget: calls("mget")? })
}

/// Polls a future once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
