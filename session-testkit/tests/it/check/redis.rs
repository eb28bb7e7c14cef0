//! What it says of Redis.

use session_testkit::backends::Backends;

use super::{check, nobody, run};
use crate::harness::{Outcome, default_backend};
use crate::support::SOON;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_down_says_why_and_what_to_do_without_the_secret() -> Outcome {
    let address = nobody()?;
    let (code, text) =
        run(check().args(["--redis-url", &format!("redis://user:s3cret@{address}/0")])).await?;
    assert_eq!(code, 1);
    assert!(text.contains("❌ Redis connection failed\n   why: "), "{text}");
    assert!(text.contains("that Redis is running") && text.contains(&address), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_and_denied_commands() -> Outcome {
    let backend = default_backend().await?;
    let (master, replica) = tokio::try_join!(
        Backends::builder().backend(backend).start_redis(),
        Backends::builder().backend(backend).start_redis()
    )?;
    replica.replica_of(Some(&master)).await?;
    let (code, text) = run(check().args(["--redis-url", replica.url()])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed") && text.contains("this server is a replica"),
        "{text}"
    );
    assert!(text.contains("❌ Role: replica"), "{text}");
    replica.replica_of(None).await?;

    let mut connection = replica.connect().await?;
    let user =
        ["SETUSER", "app", "on", ">s3cret", "~session-layer:*", "+@all", "-info", "-evalsha"];
    ::redis::cmd("ACL").arg(&user).exec_async(&mut connection).await?;
    let url = format!("redis://app:s3cret@{}/0", replica.address());
    let (code, text) = run(check().args(["--redis-url", &url])).await?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("INFO is denied") && text.contains("✅ Role: master"), "{text}");
    assert!(text.contains("Scripts are denied: nothing will be cached"), "{text}");
    for (denied, says) in [
        ("-evalsha", "Scripts are denied: nothing will be cached"),
        ("-unlink", "GET test successful, UNLINK denied"),
        ("-client", "✅ CLIENT is denied: CLIENT LIST does not name"),
    ] {
        let poor = ["SETUSER", "poor", "reset", "on", ">s3cret", "~*", "+@all"];
        ::redis::cmd("ACL").arg(&poor).arg(denied).exec_async(&mut connection).await?;
        let url = format!("redis://poor:s3cret@{}/0", replica.address());
        let (code, text) = run(check().args(["--redis-url", &url])).await?;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(says), "{denied}: {text}");
    }
    // Its namespace is not that of the keys that this user may touch.
    let (code, text) = run(check().args(["--redis-url", &url, "--namespace", "other"])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed\n   why: ") && text.contains("ACL SETUSER"),
        "{text}"
    );
    let (code, text) = run(check().args(["--redis-url", &url.replace("s3cret", "wr0ng")])).await?;
    assert_eq!(code, 1);
    assert!(text.contains("user and password") && !text.contains("wr0ng"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis() -> Outcome {
    let backend = default_backend().await?;
    let redis = Backends::builder()
        .backend(backend)
        .redis_args(["--maxmemory", "1kb", "--maxclients", "6"])
        .start_redis()
        .await?;
    let (code, text) = run(check().args(["--redis-url", redis.url()])).await?;
    assert_eq!(code, 1);
    assert!(text.contains("❌ SET test failed") && text.contains("raise maxmemory"), "{text}");
    assert!(
        text.contains("❌ Connection pool not healthy") && text.contains("maxclients"),
        "{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_of_a_cluster_or_short_of_replicas() -> Outcome {
    let backend = default_backend().await?;
    let redis = Backends::builder()
        .backend(backend)
        .redis_args(["--cluster-enabled", "yes"])
        .start_redis()
        .await?;
    let (code, text) = run(check().args(["--redis-url", redis.url()])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed") && text.contains("this is a node of a cluster"),
        "{text}"
    );
    // It may have the key that is tried.
    let mut admin = redis.connect().await?;
    ::redis::cmd("CLUSTER").arg(&["ADDSLOTSRANGE", "0", "16383"]).exec_async(&mut admin).await?;
    session_testkit::wait::until("a node that has all keys", SOON, async || {
        let (code, text) =
            run(check().args(["--redis-url", redis.url()])).await.unwrap_or_default();
        code == 0 && text.contains("Role: node of a cluster") && text.contains("all keys")
    })
    .await?;

    let redis = Backends::builder()
        .backend(backend)
        .redis_args(["--min-replicas-to-write", "1"])
        .start_redis()
        .await?;
    let (code, text) = run(check().args(["--redis-url", redis.url()])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed") && text.contains("min-replicas-to-write"),
        "{text}"
    );
    Ok(())
}
