//! Servers start, stop and restart. `faults` breaks and heals them in other ways.

use std::time::Duration;

use redis::AsyncCommands as _;
use session_testkit::{
    backends::{Backend, BackendError, Backends},
    wait,
};

use crate::harness::{Outcome, on, on_each_backend};

on_each_backend!(both_start_and_answer);
/// Starts both servers with arguments, and checks that they apply.
async fn both_start_and_answer(backend: Backend) -> Outcome {
    let backends = Backends::builder()
        .backend(backend)
        .redis_args(["--maxmemory", "5mb", "--timeout", "17"])
        .postgres_settings(["max_connections=23", "application_name=settings test"])
        .start()
        .await?;
    let (redis, postgres) = (backends.redis(), backends.postgres());
    assert_eq!((redis.backend(), postgres.backend()), (Some(backend), Some(backend)));
    let mut connection = redis.connect().await?;
    let timeout: Vec<String> =
        redis::cmd("CONFIG").arg(&["GET", "timeout"]).query_async(&mut connection).await?;
    assert_eq!(timeout, ["timeout", "17"]);
    redis.config_set("timeout", "3").await?;
    redis.flush_all().await?;
    let mut connection = postgres.connect().await?;
    for (show, value) in [("SHOW max_connections", "23"), ("SHOW synchronous_commit", "on")] {
        let shown: String = sqlx::query_scalar(show).fetch_one(&mut connection).await?;
        assert_eq!(shown, value);
    }
    Ok(())
}

on_each_backend!(stopped_servers_restart_at_their_address);
async fn stopped_servers_restart_at_their_address(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let (redis, postgres) = (backends.redis(), backends.postgres());
    let addresses = (redis.address().to_owned(), postgres.address().to_owned());
    // A client that stays connected does not delay the stop.
    let _open = postgres.connect().await?;
    redis.stop().await?;
    postgres.stop().await?;
    assert!(redis.ping().await.is_err() && postgres.ping().await.is_err());
    redis.restart().await?;
    postgres.restart().await?;
    assert_eq!((redis.address(), postgres.address()), (&*addresses.0, &*addresses.1));
    postgres.ping().await?;
    // A paused server can be killed, more than once, and restarted.
    let paused = redis.pause().await?;
    redis.kill().await?;
    redis.kill().await?;
    redis.restart().await?;
    drop(paused);
    redis.ready().await?;
    Ok(())
}

// The log also has the last line of the first stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_before_its_standby_has_everything_is_an_error() -> Outcome {
    on(Backend::Native, |backend| async move {
        let primary = Backends::builder().backend(backend).start_postgres().await?;
        let standby = primary.standby().await?;
        primary.hand_over().await?;
        primary.restart().await?;
        // A standby that has a later write is connected again.
        let write = sqlx::raw_sql("CREATE TABLE t ()");
        write.execute(&mut primary.connect().await?).await?;
        standby.caught_up(&primary).await?;
        let paused = standby.pause().await?;
        let handed_over = primary.hand_over().await;
        assert!(matches!(handed_over, Err(BackendError::Deadline { .. })), "{handed_over:?}");
        drop(paused);
        Ok(())
    })
    .await
}

on_each_backend!(redis_replica_follows_and_is_promoted);
async fn redis_replica_follows_and_is_promoted(backend: Backend) -> Outcome {
    let (master, replica) = tokio::try_join!(
        Backends::builder().backend(backend).start_redis(),
        Backends::builder().backend(backend).start_redis()
    )?;
    master.connect().await?.set::<_, _, ()>("k", "v").await?;
    replica.replica_of(Some(&master)).await?;
    let mut client = replica.connect().await?;
    wait::until("the replica to have the key", Duration::from_secs(10), async || {
        client.get::<_, Option<String>>("k").await.is_ok_and(|value| value.is_some())
    })
    .await?;
    assert!(client.set::<_, _, ()>("k", "w").await.is_err(), "a replica accepted a write");
    replica.replica_of(None).await?;
    replica.connect().await?.set::<_, _, ()>("k", "w").await?;
    Ok(())
}
