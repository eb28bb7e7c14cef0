//! Servers that the testkit did not start are used, and not damaged.

use redis::AsyncCommands as _;
use session_testkit::backends::{BackendError, Backends};

use crate::{
    deployment::given,
    harness::{Outcome, shared},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_servers_refuse_damage() -> Outcome {
    let backends = shared().await?;
    let given = given(&backends).await?;
    let redis = given.redis();
    assert_eq!(redis.backend(), None);
    for result in [
        redis.kill().await,
        redis.stop().await,
        redis.restart().await,
        redis.pause().await.map(drop),
        given.postgres().kill().await,
        given.postgres().pause().await.map(drop),
    ] {
        assert!(matches!(result, Err(BackendError::NotOurs { .. })), "{result:?}");
    }
    for result in [
        redis.flush_all().await,
        redis.config_set("timeout", "0").await,
        redis.replica_of(None).await,
        redis.save().await,
    ] {
        let error = result.expect_err("a named server is not damaged");
        assert!(matches!(error, BackendError::NotAllowed { .. }), "{error:?}");
        assert!(error.to_string().contains("allow_destructive"), "{error}");
    }
    // A dropped guard does not stop them.
    drop(given);
    backends.redis().ping().await?;
    backends.postgres().ping().await?;

    // With permission, commands work. Signals still need a process of ours.
    let given = Backends::builder().redis_url(backends.redis().url()).allow_destructive();
    let redis = given.start_redis().await?;
    redis.config_set("slowlog-max-len", "64").await?;
    assert!(matches!(redis.kill().await, Err(BackendError::NotOurs { .. })));

    let own = Backends::start_own().await?;
    assert!(own.redis().backend().is_some() && own.postgres().backend().is_some());
    assert_ne!(own.redis().address(), backends.redis().address());
    own.redis().flush_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_are_separate_and_leave_nothing() -> Outcome {
    let backends = shared().await?;
    // Only named servers are cleaned up, because the others stop.
    let given = given(&backends).await?;
    let (one, two) = (given.sandbox(), given.sandbox());
    assert_ne!(one.schema(), two.schema());
    assert_ne!(one.namespace(), two.namespace());
    let mut redis = given.redis().connect().await?;
    let mut postgres = given.postgres().connect().await?;
    let (kept, gone) = (format!("{}:k", two.namespace()), format!("{}:k", one.namespace()));
    for (sandbox, key) in [(&one, &gone), (&two, &kept)] {
        redis.set::<_, _, ()>(key, "v").await?;
        let statement = format!("CREATE SCHEMA {0}; CREATE TABLE {0}.t (n int)", sandbox.schema());
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut postgres).await?;
    }
    let schema = one.schema().to_owned();
    drop(one);
    let keys: (bool, bool) = (redis.exists(&gone).await?, redis.exists(&kept).await?);
    assert_eq!(keys, (false, true));
    let exists = "SELECT count(*) FROM pg_namespace WHERE nspname IN ($1, $2)";
    let exists = sqlx::query_scalar(exists).bind(&schema).bind(two.schema());
    let count: i64 = exists.fetch_one(&mut postgres).await?;
    assert_eq!(count, 1);
    two.cleanup().await?;
    assert!(!redis.exists::<_, bool>(&kept).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_server_or_bad_url_is_an_error() -> Outcome {
    // The port of a listener that is closed again.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let started =
        Backends::builder().redis_url(format!("redis://:s3cret@{address}/0")).start_redis();
    let error = started.await.expect_err("no server listens");
    assert!(matches!(error, BackendError::NotReady { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && !text.contains("s3cret"), "{text}");
    for url in ["", "s3cret", "http://s3cret@localhost", "redis://:s3cret@", "postgres:///db"] {
        let begin = std::time::Instant::now();
        for error in [
            Backends::builder().redis_url(url).start_redis().await.expect_err(url),
            Backends::builder().database_url(url).start_postgres().await.expect_err(url),
        ] {
            assert!(matches!(error, BackendError::BadUrl { .. }), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
        assert!(begin.elapsed().as_secs() < 5, "a bad URL was waited for");
    }
    Ok(())
}
