//! The lines about Redis.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use session_testkit::backends::{Backend, Backends, Cluster, RedisServer, Sentinels};

use super::{check_redis, expect, unused_address};
use crate::certificates::{self, Ca};
use crate::harness::{Failure, Outcome, default_backend, on};

const DAY: time::Duration = time::Duration::days(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_redis_is_explained_without_its_password() -> Outcome {
    let address = unused_address()?;
    let url = format!("redis://user:s3cret@{address}/0");
    let lines = [
        "❌ Redis connection failed\n   why: ",
        "the connection was refused",
        "that Redis is running",
        &address,
    ];
    expect(&mut check_redis(&url), 1, &lines).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cause_of_a_failed_connect_is_named() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let own = ca.issue("localhost", DAY)?;
        let (redis, tls_port) = certificates::redis(&ca, &own, "no").await?;
        let port = redis.address().rsplit(':').next().unwrap_or_default();
        let mut admin = redis.connect().await?;
        for (url, why, remedy) in [
            (format!("rediss://localhost:{tls_port}"), "unknown CA", "REDIS_TLS_CA_FILE"),
            (format!("redis://localhost:{tls_port}"), "expects TLS", "rediss://"),
            (format!("rediss://localhost:{port}"), "speaks plain Redis", "redis://"),
            (format!("redis://:s3cret@localhost:{port}"), "has none", "user and password"),
            (format!("redis://no:s3cret@localhost:{port}"), "WRONGPASS", "user and password"),
            (format!("redis://localhost:{port}/99"), "number of the database", "databases"),
            ("redis://no-such-host.invalid".to_owned(), " name ", "REDIS_URL"),
        ] {
            let lines = ["❌ Redis connection failed\n   why: ", why, remedy];
            expect(&mut check_redis(&url), 1, &lines).await?;
        }
        let set = ["SETUSER", "default", ">s3cret"];
        let () = ::redis::cmd("ACL").arg(&set).query_async(&mut admin).await?;
        expect(&mut check_redis(redis.url()), 1, &["NOAUTH", "user and password"]).await?;
        let () = ::redis::cmd("ACL")
            .arg(&["SETUSER", "default", "nopass"])
            .query_async(&mut admin)
            .await?;
        // The limit is reached by the test's own connection.
        redis.config_set("maxclients", "1").await?;
        let lines = ["max number of clients", "raise maxclients"];
        expect(&mut check_redis(redis.url()), 1, &lines).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_tls_apply_as_in_the_application() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let (_redis, port) = certificates::redis(&ca, &ca.issue("localhost", DAY)?, "no").await?;
        let url = format!("rediss://localhost:{port}");
        for (name, value, code, line) in [
            ("REDIS_TLS_CA_FILE", ca.file(), 0, "✅ GET test successful"),
            ("REDIS_TLS_CA_FILE", "no such file".into(), 1, "REDIS_TLS_CA_FILE) cannot be read"),
            ("REDIS_TLS_INSECURE", "true".into(), 0, "✅ GET test successful"),
            ("REDIS_TLS_INSECURE", "yes".into(), 1, "REDIS_TLS_INSECURE is `yes`"),
        ] {
            expect(check_redis(&url).env(name, value), code, &[line]).await?;
        }
        let lines = ["REDIS_TLS_INSECURE=true"];
        expect(&mut check_redis(&format!("{url}#insecure")), 1, &lines).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_lead_to_the_master_and_are_no_redis() -> Outcome {
    on(Backend::Native, |_| async {
        let sentinels = Sentinels::start().await?;
        let lines =
            ["✅ GET test successful", "✅ Role: master with 1 replicas (behind sentinels)"];
        expect(&mut check_redis(&sentinels.url()), 0, &lines).await?;
        let url = format!("redis://{}", sentinels.servers()[0].address());
        let lines = ["this is a sentinel", "redis+sentinel://HOST,HOST/SERVICE"];
        expect(&mut check_redis(&url), 1, &lines).await?;
        let lines = ["do not know the service", "SENTINEL MASTERS"];
        expect(&mut check_redis(&format!("{}2", sentinels.url())), 1, &lines).await?;
        Ok(())
    })
    .await
}

/// Forwards to Redis, except commands with this word. Each of them gets this reply.
async fn proxy(
    redis: &RedisServer,
    words: &'static [&str],
    reply: &'static [u8],
) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (url, redis) = (format!("redis://{}", listener.local_addr()?), redis.address().to_owned());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let redis = redis.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(redis).await?;
                let (mut asked, mut replied) = (vec![0; 65_536], vec![0; 65_536]);
                loop {
                    tokio::select! {
                        read = client.read(&mut asked) => {
                            let asked = &asked[..read?];
                            if asked.is_empty() {
                                return std::io::Result::Ok(());
                            }
                            // A word has a line of its own. The other commands of a node do not
                            // travel together with one of these.
                            let text = String::from_utf8_lossy(asked);
                            let lines = text.lines().filter(|line| words.contains(line));
                            match lines.count() {
                                0 => server.write_all(asked).await?,
                                times => client.write_all(&reply.repeat(times)).await?,
                            }
                        }
                        read = server.read(&mut replied) => client.write_all(&replied[..read?]).await?,
                    }
                }
            });
        }
    });
    Ok(url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_behind_which_nothing_is_cached_is_reported() -> Outcome {
    let redis = start(&[]).await?;
    // To this one, each key exists.
    let url = proxy(&redis, &["NX"], b"$-1\r\n").await?;
    let lines = ["✅ GET test successful", "❌ Nothing will be cached", "no lease", "a proxy"];
    expect(&mut check_redis(&url), 1, &lines).await?;
    // As Envoy, which knows none of these.
    let unknown = b"-ERR unknown command\r\n";
    let url = proxy(&redis, &["INFO", "ROLE", "HELLO"], unknown).await?;
    let lines = ["❌ Redis connection failed", "it refused INFO, ROLE and HELLO", "A proxy"];
    expect(&mut check_redis(&url), 1, &lines).await?;
    // As a service whose quota is used up.
    let quota = b"-ERR max requests limit exceeded. Limit: 500000\r\n";
    let url = proxy(&redis, &["INFO", "ROLE", "HELLO"], quota).await?;
    expect(&mut check_redis(&url), 1, &["max requests limit exceeded. Limit: 500000"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_without_unlink_is_refused_with_its_version() -> Outcome {
    let redis = start(&[]).await?;
    let old = b"$22\r\nredis_version:3.2.12\r\n\r\n";
    let url = proxy(&redis, &["INFO"], old).await?;
    let lines = ["❌ Redis connection failed", "this is Redis 3.2.12", "upgrade to Redis 6.2"];
    expect(&mut check_redis(&url), 1, &lines).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheme_in_capitals_and_blanks_are_read_as_by_the_application() -> Outcome {
    let redis = start(&[]).await?;
    let url = format!(" REDIS://{}/0\n", redis.address());
    expect(&mut check_redis(&url), 0, &["✅ An entry was filled and read back"]).await?;
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
    let lines = ["❌ SET test failed", "this server is a replica", "❌ Role: replica"];
    expect(&mut check_redis(replica.url()), 1, &lines).await?;
    replica.replica_of(None).await?;

    let scripts = "Scripts are denied: nothing will be cached";
    let mut connection = replica.connect().await?;
    for (user, rights, lines) in [
        (
            "app",
            &["~session-layer:*", "+@all", "-info", "-evalsha"][..],
            &["INFO is denied", "✅ Role: master", scripts][..],
        ),
        ("poor", &["~*", "+@all", "-evalsha"], &[scripts]),
        ("poor", &["~*", "+@all", "-unlink"], &["GET test successful, UNLINK denied"]),
        ("poor", &["~*", "+@all", "-client"], &["✅ CLIENT is denied: CLIENT LIST does not name"]),
    ] {
        let set = ["SETUSER", user, "reset", "on", ">s3cret"];
        ::redis::cmd("ACL").arg(&set).arg(rights).exec_async(&mut connection).await?;
        let url = format!("redis://{user}:s3cret@{}/0", replica.address());
        expect(&mut check_redis(&url), 0, lines).await?;
    }
    // The user may not use keys of this namespace.
    let url = format!("redis://app:s3cret@{}/0", replica.address());
    let lines = ["❌ SET test failed\n   why: ", "ACL SETUSER"];
    expect(check_redis(&url).args(["--namespace", "other"]), 1, &lines).await?;
    let url = url.replace("s3cret", "wr0ng");
    let text = expect(&mut check_redis(&url), 1, &["user and password"]).await?;
    assert!(!text.contains("wr0ng"), "{text}");
    Ok(())
}

async fn start(arguments: &[&str]) -> Result<RedisServer, Failure> {
    let builder = Backends::builder().backend(default_backend().await?);
    Ok(builder.redis_args(arguments.iter().copied()).start_redis().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis_fails_set_and_the_pool() -> Outcome {
    let redis = start(&["--maxmemory", "1kb", "--maxclients", "6"]).await?;
    let lines =
        ["❌ SET test failed", "raise maxmemory", "❌ Connection pool not healthy", "maxclients"];
    expect(&mut check_redis(redis.url()), 1, &lines).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_of_a_cluster_or_short_of_replicas() -> Outcome {
    let cluster = Cluster::start().await?;
    let node = format!("redis://{}", cluster.masters()[0].address());
    let lines = ["❌ Redis connection failed", "a node of a cluster", "redis+cluster://"];
    expect(&mut check_redis(&node), 1, &lines).await?;
    let lines =
        ["Role: master, no replicas (of a shard)", "Cluster: 3 shards", "An entry was filled"];
    expect(&mut check_redis(&cluster.url()), 0, &lines).await?;
    // The key of the check may be there too.
    let lost = &cluster.masters()[2];
    lost.kill().await?;
    expect(&mut check_redis(&cluster.url()), 1, &[lost.address()]).await?;

    let redis = start(&["--min-replicas-to-write", "1"]).await?;
    let lines = ["❌ SET test failed", "min-replicas-to-write"];
    expect(&mut check_redis(redis.url()), 1, &lines).await?;
    Ok(())
}
