//! Servers start, break, heal and go.

use std::time::{Duration, Instant};

use redis::AsyncCommands as _;
use session_testkit::{
    backends::{Backend, Backends, RedisServer},
    wait,
};
use tokio::time::timeout;

use crate::harness::{Outcome, on_each_backend};

async fn get(redis: &RedisServer, key: &str) -> Result<Option<String>, redis::RedisError> {
    let mut connection =
        redis.connect().await.map_err(|error| std::io::Error::other(error.to_string()))?;
    connection.get(key).await
}

on_each_backend!(both_start_and_answer);
async fn both_start_and_answer(backend: Backend) -> Outcome {
    let begin = Instant::now();
    let backends = Backends::builder().backend(backend).start().await?;
    eprintln!("{backend}: both started in {:?}", begin.elapsed());
    assert_eq!(backends.redis().backend(), Some(backend));
    assert_eq!(backends.postgres().backend(), Some(backend));
    backends.redis().ping().await?;
    backends.postgres().ping().await?;
    let begin = Instant::now();
    drop(backends);
    eprintln!("{backend}: both gone in {:?}", begin.elapsed());
    Ok(())
}

on_each_backend!(redis_killed_and_restarted_keeps_address_and_saved_data);
async fn redis_killed_and_restarted_keeps_address_and_saved_data(backend: Backend) -> Outcome {
    let redis = Backends::builder().backend(backend).start_redis().await?;
    let address = redis.address().to_owned();
    redis.connect().await?.set::<_, _, ()>("k", "saved").await?;
    redis.save().await?;
    redis.connect().await?.set::<_, _, ()>("k", "not saved").await?;

    redis.kill().await?;
    assert!(redis.ping().await.is_err());
    redis.kill().await?;

    redis.restart().await?;
    assert_eq!(redis.address(), address);
    assert_eq!(get(&redis, "k").await?.as_deref(), Some("saved"));
    Ok(())
}

on_each_backend!(postgres_killed_and_restarted_keeps_address_and_commits);
async fn postgres_killed_and_restarted_keeps_address_and_commits(backend: Backend) -> Outcome {
    let postgres = Backends::builder().backend(backend).start_postgres().await?;
    let address = postgres.address().to_owned();
    let mut open = postgres.connect().await?;
    sqlx::raw_sql("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").execute(&mut open).await?;

    postgres.kill().await?;
    assert!(postgres.ping().await.is_err());
    assert!(sqlx::query("SELECT 1").execute(&mut open).await.is_err());

    postgres.restart().await?;
    assert_eq!(postgres.address(), address);
    let mut connection = postgres.connect().await?;
    let n: i32 = sqlx::query_scalar("SELECT n FROM t").fetch_one(&mut connection).await?;
    assert_eq!(n, 7);
    Ok(())
}

on_each_backend!(redis_paused_does_not_answer_and_resumes);
async fn redis_paused_does_not_answer_and_resumes(backend: Backend) -> Outcome {
    let redis = Backends::builder().backend(backend).start_redis().await?;
    let mut connection = redis.connect().await?;
    let paused = redis.pause().await?;
    let answer =
        timeout(Duration::from_millis(300), connection.get::<_, Option<String>>("k")).await;
    assert!(answer.is_err(), "a paused server answered: {answer:?}");
    paused.resume().await?;
    redis.ready().await?;

    let paused = redis.pause().await?;
    assert!(redis.ping().await.is_err());
    drop(paused);
    redis.ready().await?;
    Ok(())
}

on_each_backend!(postgres_paused_does_not_answer_and_resumes);
async fn postgres_paused_does_not_answer_and_resumes(backend: Backend) -> Outcome {
    let postgres = Backends::builder().backend(backend).start_postgres().await?;
    // A backend process that was there before: it has to stand still too.
    let mut open = postgres.connect().await?;
    let paused = postgres.pause().await?;
    let answer =
        timeout(Duration::from_millis(300), sqlx::query("SELECT 1").execute(&mut open)).await;
    assert!(answer.is_err(), "a paused server answered: {answer:?}");
    drop(paused);
    wait::until("an answer", Duration::from_secs(10), async || postgres.ping().await.is_ok())
        .await?;
    Ok(())
}

on_each_backend!(stopped_then_restarted);
async fn stopped_then_restarted(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    // A client that stays connected does not hold up the stop.
    let _open = backends.postgres().connect().await?;
    backends.redis().stop().await?;
    backends.postgres().stop().await?;
    assert!(backends.redis().ping().await.is_err());
    assert!(backends.postgres().ping().await.is_err());
    backends.redis().restart().await?;
    backends.postgres().restart().await?;
    // A paused server can be restarted as well.
    let paused = backends.redis().pause().await?;
    backends.redis().kill().await?;
    backends.redis().restart().await?;
    drop(paused);
    backends.redis().ready().await?;
    Ok(())
}

on_each_backend!(redis_arguments_reach_the_server);
async fn redis_arguments_reach_the_server(backend: Backend) -> Outcome {
    let redis = Backends::builder()
        .backend(backend)
        .redis_args(["--maxmemory", "5mb", "--timeout", "17"])
        .start_redis()
        .await?;
    let mut connection = redis.connect().await?;
    let set: Vec<String> =
        redis::cmd("CONFIG").arg(&["GET", "timeout"]).query_async(&mut connection).await?;
    assert_eq!(set, ["timeout", "17"]);
    redis.config_set("timeout", "3").await?;
    redis.flush_all().await?;
    Ok(())
}

on_each_backend!(postgres_settings_reach_the_server);
async fn postgres_settings_reach_the_server(backend: Backend) -> Outcome {
    let postgres = Backends::builder()
        .backend(backend)
        .postgres_settings(["max_connections=23", "application_name=settings test"])
        .start_postgres()
        .await?;
    let mut connection = postgres.connect().await?;
    let n: String = sqlx::query_scalar("SHOW max_connections").fetch_one(&mut connection).await?;
    assert_eq!(n, "23");
    let commit: String =
        sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut connection).await?;
    assert_eq!(commit, "on");
    Ok(())
}

on_each_backend!(redis_replica_follows_and_is_promoted);
async fn redis_replica_follows_and_is_promoted(backend: Backend) -> Outcome {
    let (master, replica) = tokio::try_join!(
        Backends::builder().backend(backend).start_redis(),
        Backends::builder().backend(backend).start_redis()
    )?;
    master.connect().await?.set::<_, _, ()>("k", "v").await?;
    replica.replica_of(Some(&master)).await?;
    let seconds = Duration::from_secs(10);
    wait::until("the replica to have the key", seconds, async || {
        get(&replica, "k").await.is_ok_and(|value| value.is_some())
    })
    .await?;
    let refused = replica.connect().await?.set::<_, _, ()>("k", "w").await;
    assert!(refused.is_err(), "a replica took a write");
    replica.replica_of(None).await?;
    replica.connect().await?.set::<_, _, ()>("k", "w").await?;
    Ok(())
}
