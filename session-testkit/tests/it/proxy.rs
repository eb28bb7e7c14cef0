//! The proxy in front of a real Redis. The unit tests of `proxy/flow` cover each toxic's timing.

use std::time::{Duration, Instant};

use redis::{
    AsyncCommands as _, AsyncConnectionConfig, Client, RedisResult, aio::MultiplexedConnection,
};
use session_testkit::{
    backends::{Backend, Backends},
    proxy::{Network, Peer, Proxy, Toxic},
    wait,
};
use sqlx::Connection as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Failure, Outcome, on_each_backend, shared};

const SECONDS: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SECONDS))
        .set_response_timeout(Some(SECONDS));
    Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<Duration> {
    let begin = Instant::now();
    redis::cmd("PING").exec_async(connection).await?;
    Ok(begin.elapsed())
}

/// Starts a proxy in front of the shared Redis. Returns the URL of the proxy.
async fn start() -> Result<(Proxy, String), Failure> {
    let backends = shared().await?;
    let proxy = Proxy::start(backends.redis().address()).await?;
    let url = proxy.url(backends.redis().url());
    Ok((proxy, url))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_and_are_counted() -> Outcome {
    let (proxy, url) = start().await?;
    let mut connection = connect(&url).await?;
    let large = "x".repeat(3_000_000);
    let echoed: String = redis::cmd("ECHO").arg(&large).query_async(&mut connection).await?;
    assert_eq!(echoed, large);
    let traffic = proxy.traffic();
    assert_eq!((traffic.accepted, traffic.open), (1, 1));
    assert!(traffic.to_server > 3_000_000 && traffic.to_client > 3_000_000, "{traffic:?}");
    drop(connection);
    wait::until("the connection to be closed", SECONDS, async || proxy.traffic().open == 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_delays_replies_and_not_the_rate() -> Outcome {
    let (proxy, url) = start().await?;
    let mut connection = connect(&url).await?;
    let slow = proxy.inject(Toxic::latency(500 * MS, Duration::ZERO));
    let begin = Instant::now();
    let mut pings = tokio::task::JoinSet::new();
    for n in 0..40_u32 {
        let mut connection = connection.clone();
        pings.spawn(async move {
            tokio::time::sleep(2 * MS * n).await;
            ping(&mut connection).await
        });
    }
    for took in pings.join_all().await {
        assert!(took? >= 500 * MS);
    }
    // In sequence they would take 20 s.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    slow.heal();
    // Healing also delivers bytes that are delayed already.
    let forever = proxy.inject(Toxic::latency(Duration::from_secs(3600), Duration::ZERO));
    let sent = proxy.traffic().to_server;
    let answer = tokio::spawn(async move { ping(&mut connection).await });
    wait::until("the PING to be sent", SECONDS, async || proxy.traffic().to_server > sent).await?;
    drop(forever);
    timeout(SECONDS, answer).await???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_closes_old_and_new_connections_and_heals() -> Outcome {
    let (proxy, url) = start().await?;
    let mut connection = connect(&url).await?;
    let down = proxy.inject(Toxic::down());
    assert!(ping(&mut connection).await.is_err());
    assert!(connect(&url).await.is_err());
    drop(down);
    let mut connection = connect(&url).await?;
    ping(&mut connection).await?;
    // Open connections are closed even if the toxic is healed at once.
    proxy.inject(Toxic::down()).heal();
    assert!(ping(&mut connection).await.is_err());
    ping(&mut connect(&url).await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_bytes_are_delivered_at_the_end() -> Outcome {
    let (proxy, url) = start().await?;
    let mut old = connect(&url).await?;
    let hold = proxy.inject(Toxic::hold());
    assert!(timeout(200 * MS, ping(&mut old)).await.is_err());
    assert!(timeout(200 * MS, connect(&url)).await.is_err(), "a new connection got a reply");
    let mut waiting = old.clone();
    let answer = tokio::spawn(async move { ping(&mut waiting).await });
    drop(hold);
    timeout(SECONDS, answer).await???;
    ping(&mut old).await?;
    // A blackhole affects open connections only.
    let hold = proxy.inject(Toxic::blackhole());
    let mut new = connect(&url).await?;
    ping(&mut new).await?;
    assert!(timeout(200 * MS, ping(&mut old)).await.is_err());
    drop(hold);
    ping(&mut old).await?;
    let report = proxy.inject(Toxic::down().established()).heal();
    assert!(report.connections >= 2, "{report}");
    assert!(ping(&mut new).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_from_delays_one_command() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start().await?;
    let sandbox = backends.sandbox();
    let key = format!("{}:held", sandbox.namespace());
    let (mut reader, mut writer) = (connect(&url).await?, connect(&url).await?);
    let held = proxy.inject(Toxic::hold_from("SET").to_server());
    ping(&mut writer).await?;
    assert!(!held.report().touched_something());
    let late = tokio::spawn({
        let key = key.clone();
        async move { writer.set::<_, _, ()>(key, "v").await }
    });
    timeout(SECONDS, held.touched()).await?;
    // Other connections continue, and the key is not set.
    assert_eq!(reader.get::<_, Option<String>>(&key).await?, None);
    let report = held.release();
    assert_eq!(report.connections, 1);
    assert!(report.bytes > 0, "{report}");
    timeout(SECONDS, late).await???;
    assert_eq!(reader.get::<_, String>(&key).await?, "v");
    Ok(())
}

/// Connects a client that shows the events of TCP.
async fn raw(proxy: &Proxy) -> std::io::Result<TcpStream> {
    let mut client = TcpStream::connect(proxy.address()).await?;
    client.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    client.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"+PONG\r\n");
    Ok(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_peer_resets_the_connection() -> Outcome {
    let (proxy, _) = start().await?;
    for after in [Duration::ZERO, 50 * MS] {
        let mut client = raw(&proxy).await?;
        let reset = proxy.inject(Toxic::reset_peer(after));
        if !after.is_zero() {
            timeout(SECONDS, reset.touched()).await?;
        }
        assert_eq!(reset.heal().connections, 1);
        let end = timeout(SECONDS, client.read(&mut [0; 1])).await?;
        let error = end.expect_err("a reset is not an end of file");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    raw(&proxy).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_are_cut_or_slowed() -> Outcome {
    let long = format!("ECHO {}\r\nQUIT\r\n", "x".repeat(2_000));
    let echoed = format!("$2000\r\n{}\r\n+OK\r\n", "x".repeat(2_000));
    let cases: [(Toxic, &str, &str, Duration); 2] = [
        (Toxic::limit_data(9), "PING\r\nECHO hello\r\n", "+PONG\r\n$5", Duration::ZERO),
        (Toxic::slicer(20, 5, MS), &long, &echoed, 75 * MS),
    ];
    for (toxic, request, reply, least) in cases {
        let (proxy, _) = start().await?;
        let mut client = raw(&proxy).await?;
        let injected = proxy.inject(toxic);
        let begin = Instant::now();
        client.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        timeout(SECONDS, client.read_to_end(&mut answer)).await??;
        assert_eq!(String::from_utf8(answer)?, reply);
        assert!(begin.elapsed() >= least, "{injected:?}: {:?}", begin.elapsed());
        assert_eq!(injected.heal().connections, 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_affects_one_node_and_one_server() -> Outcome {
    let backends = shared().await?;
    let (redis, postgres) = (backends.redis(), backends.postgres());
    let network = Network::start(2, redis.address(), postgres.address()).await?;
    let url = |node| network.proxy(node, Peer::Redis).url(redis.url());
    let mut nodes = [connect(&url(0)).await?, connect(&url(1)).await?];
    let apart = network.partition(1, Peer::Redis);
    ping(&mut nodes[0]).await?;
    assert!(timeout(200 * MS, ping(&mut nodes[1])).await.is_err());
    assert!(timeout(200 * MS, connect(&url(1))).await.is_err());
    let database = network.proxy(1, Peer::Postgres).url(postgres.url());
    sqlx::PgConnection::connect(&database).await?.close().await?;
    assert_eq!(apart.heal().connections, 2);
    ping(&mut nodes[1]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn toxic_without_effect_reports_it() -> Outcome {
    let (proxy, url) = start().await?;
    let mut connection = connect(&url).await?;
    let spared = [
        proxy.inject(Toxic::hold_from("no such thing")),
        proxy.inject(Toxic::limit_data(1_000_000)),
    ];
    ping(&mut connection).await?;
    for toxic in spared {
        assert!(!toxic.report().touched_something(), "{toxic:?}");
    }
    Ok(())
}

on_each_backend!(proxy_outlives_a_killed_server_and_changes_its_target);
async fn proxy_outlives_a_killed_server_and_changes_its_target(backend: Backend) -> Outcome {
    let (one, two) = tokio::try_join!(
        Backends::builder().backend(backend).start_redis(),
        Backends::builder().backend(backend).start_redis()
    )?;
    let proxy = Proxy::start(one.address()).await?;
    let url = proxy.url(one.url());
    ping(&mut connect(&url).await?).await?;
    one.kill().await?;
    assert!(connect(&url).await.is_err());
    proxy.set_target(two.address());
    ping(&mut connect(&url).await?).await?;
    Ok(())
}
