//! The proxy, in front of a real Redis.

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

use crate::harness::{Outcome, on_each_backend, shared};

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

async fn start(backends: &Backends) -> std::io::Result<(Proxy, String)> {
    let proxy = Proxy::start(backends.redis().address()).await?;
    let url = proxy.url(backends.redis().url());
    Ok((proxy, url))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_bytes_and_counts_them() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
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
async fn latency_delays_answers_and_heals() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let slow = proxy.inject(Toxic::latency(80 * MS, 20 * MS));
    for _ in 0..3 {
        let took = ping(&mut connection).await?;
        assert!(took >= 60 * MS, "{took:?}");
    }
    // Two add up.
    let slower = proxy.inject(Toxic::latency(100 * MS, Duration::ZERO));
    let took = ping(&mut connection).await?;
    assert!(took >= 160 * MS, "{took:?}");
    drop(slower);
    slow.heal();
    // Healing reaches what is on its way as well.
    let forever = proxy.inject(Toxic::latency(Duration::from_secs(3600), Duration::ZERO));
    let sent = proxy.traffic().to_server;
    let mut waiting = connection.clone();
    let answer = tokio::spawn(async move { ping(&mut waiting).await });
    wait::until("the PING to be sent", SECONDS, async || proxy.traffic().to_server > sent).await?;
    drop(forever);
    timeout(SECONDS, answer).await???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_does_not_limit_the_rate() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
    let connection = connect(&url).await?;
    let _slow = proxy.inject(Toxic::latency(200 * MS, Duration::ZERO));
    let begin = Instant::now();
    let mut pings = tokio::task::JoinSet::new();
    for n in 0..40_u64 {
        let mut connection = connection.clone();
        pings.spawn(async move {
            tokio::time::sleep(2 * MS * u32::try_from(n).unwrap_or(0)).await;
            ping(&mut connection).await
        });
    }
    while let Some(result) = pings.join_next().await {
        result??;
    }
    // One after the other they would take 8 s.
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_closes_old_and_new_connections_and_heals() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let down = proxy.inject(Toxic::down());
    assert!(ping(&mut connection).await.is_err());
    assert!(connect(&url).await.is_err());
    drop(down);
    ping(&mut connect(&url).await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_healed_at_once_closes_what_was_open() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    proxy.inject(Toxic::down()).heal();
    assert!(ping(&mut connection).await.is_err());
    ping(&mut connect(&url).await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_holds_bytes_and_delivers_them_at_the_end() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let hold = proxy.inject(Toxic::hold());
    assert!(timeout(200 * MS, ping(&mut connection)).await.is_err());
    assert!(timeout(200 * MS, connect(&url)).await.is_err(), "a new connection got an answer");
    let mut waiting = connection.clone();
    let answer = tokio::spawn(async move { ping(&mut waiting).await });
    drop(hold);
    timeout(SECONDS, answer).await???;
    ping(&mut connection).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blackhole_spares_new_connections() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
    let mut old = connect(&url).await?;
    let hold = proxy.inject(Toxic::blackhole());
    let mut new = connect(&url).await?;
    ping(&mut new).await?;
    assert!(timeout(200 * MS, ping(&mut old)).await.is_err());
    drop(hold);
    ping(&mut old).await?;
    let report = proxy.inject(Toxic::down().established()).heal();
    assert_eq!(report.connections, 2);
    assert!(ping(&mut new).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_from_stops_one_command_in_mid_air() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
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
    // Others go on, and nothing was set.
    assert_eq!(reader.get::<_, Option<String>>(&key).await?, None);
    let report = held.release();
    assert_eq!(report.connections, 1);
    assert!(report.bytes > 0, "{report}");
    timeout(SECONDS, late).await???;
    assert_eq!(reader.get::<_, String>(&key).await?, "v");
    Ok(())
}

/// A client that shows what TCP shows.
async fn raw(proxy: &Proxy) -> std::io::Result<TcpStream> {
    let mut client = TcpStream::connect(proxy.address()).await?;
    client.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    client.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"+PONG\r\n");
    Ok(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_peer_is_seen_as_a_reset() -> Outcome {
    let backends = shared().await?;
    let (proxy, _) = start(&backends).await?;
    // At once, healed at once; and after a while.
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
async fn limit_data_truncates_an_answer() -> Outcome {
    let backends = shared().await?;
    let (proxy, _) = start(&backends).await?;
    let mut client = raw(&proxy).await?;
    let _short = proxy.inject(Toxic::limit_data(9));
    client.write_all(b"PING\r\nECHO hello\r\n").await?;
    let mut answer = Vec::new();
    timeout(SECONDS, client.read_to_end(&mut answer)).await??;
    assert_eq!(answer, b"+PONG\r\n$5");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slicer_slows_a_response() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let text = "x".repeat(2000);
    let slow = proxy.inject(Toxic::slicer(20, 5, MS));
    let begin = Instant::now();
    let echoed: String = redis::cmd("ECHO").arg(&text).query_async(&mut connection).await?;
    assert_eq!(echoed, text);
    assert!(begin.elapsed() > 75 * MS, "{:?}", begin.elapsed());
    let report = slow.heal();
    assert_eq!(report.connections, 1);
    assert!(report.bytes > 2000, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_cuts_off_one_node_from_one_server() -> Outcome {
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
async fn a_toxic_that_touched_nothing_says_so() -> Outcome {
    let backends = shared().await?;
    let (proxy, url) = start(&backends).await?;
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

on_each_backend!(stays_while_its_server_is_killed_and_another_takes_over);
async fn stays_while_its_server_is_killed_and_another_takes_over(backend: Backend) -> Outcome {
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
