//! The proxy, in front of a real Redis.

use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, Client, RedisResult, aio::MultiplexedConnection};
use session_testkit::{
    backends::{Backend, Backends},
    proxy::Proxy,
    wait,
};
use tokio::time::timeout;

use crate::harness::{Outcome, Registry};

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("passes_bytes_and_counts_them", passes_bytes);
    reg.shared("latency_delays_answers_and_heals", latency);
    reg.shared("latency_does_not_limit_the_rate", latency_keeps_rate);
    reg.shared("cut_closes_old_and_new_connections_and_heals", cut);
    reg.shared(
        "a_cut_healed_at_once_closes_what_was_open",
        cut_healed_at_once,
    );
    reg.shared("hang_holds_bytes_and_delivers_them_at_the_end", hang);
    reg.shared("hang_established_spares_new_connections", hang_established);
    reg.each_backend(
        "stays_while_its_server_is_killed_and_another_takes_over",
        set_target,
    );
}

type Shared = std::sync::Arc<Backends>;

const SECONDS: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SECONDS))
        .set_response_timeout(Some(SECONDS));
    Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
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

async fn passes_bytes(backends: Shared) -> Outcome {
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let large = "x".repeat(3_000_000);
    let echoed: String = redis::cmd("ECHO")
        .arg(&large)
        .query_async(&mut connection)
        .await?;
    assert_eq!(echoed, large);
    let traffic = proxy.traffic();
    assert_eq!((traffic.accepted, traffic.open), (1, 1));
    assert!(
        traffic.to_server > 3_000_000 && traffic.to_client > 3_000_000,
        "{traffic:?}"
    );
    drop(connection);
    wait::until("the connection to be closed", SECONDS, async || {
        proxy.traffic().open == 0
    })
    .await?;
    Ok(())
}

async fn latency(backends: Shared) -> Outcome {
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let slow = proxy.latency(80 * MS, 20 * MS);
    for _ in 0..3 {
        let took = ping(&mut connection).await?;
        assert!(took >= 60 * MS, "{took:?}");
    }
    // Two add up.
    let slower = proxy.latency(100 * MS, Duration::ZERO);
    let took = ping(&mut connection).await?;
    assert!(took >= 160 * MS, "{took:?}");
    drop(slower);
    slow.heal();
    // Healing reaches what is on its way as well.
    let forever = proxy.latency(Duration::from_secs(3600), Duration::ZERO);
    let sent = proxy.traffic().to_server;
    let mut waiting = connection.clone();
    let answer = tokio::spawn(async move { ping(&mut waiting).await });
    wait::until("the PING to be sent", SECONDS, async || {
        proxy.traffic().to_server > sent
    })
    .await?;
    drop(forever);
    timeout(SECONDS, answer).await???;
    Ok(())
}

async fn latency_keeps_rate(backends: Shared) -> Outcome {
    let (proxy, url) = start(&backends).await?;
    let connection = connect(&url).await?;
    let _slow = proxy.latency(200 * MS, Duration::ZERO);
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
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    Ok(())
}

async fn cut(backends: Shared) -> Outcome {
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let cut = proxy.cut();
    assert!(ping(&mut connection).await.is_err());
    assert!(connect(&url).await.is_err());
    drop(cut);
    ping(&mut connect(&url).await?).await?;
    Ok(())
}

async fn cut_healed_at_once(backends: Shared) -> Outcome {
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    proxy.cut().heal();
    assert!(ping(&mut connection).await.is_err());
    ping(&mut connect(&url).await?).await?;
    Ok(())
}

async fn hang(backends: Shared) -> Outcome {
    let (proxy, url) = start(&backends).await?;
    let mut connection = connect(&url).await?;
    let hang = proxy.hang();
    assert!(timeout(200 * MS, ping(&mut connection)).await.is_err());
    assert!(
        timeout(200 * MS, connect(&url)).await.is_err(),
        "a new connection got an answer"
    );
    let mut waiting = connection.clone();
    let answer = tokio::spawn(async move { ping(&mut waiting).await });
    drop(hang);
    timeout(SECONDS, answer).await???;
    ping(&mut connection).await?;
    Ok(())
}

async fn hang_established(backends: Shared) -> Outcome {
    let (proxy, url) = start(&backends).await?;
    let mut old = connect(&url).await?;
    let hang = proxy.hang_established();
    let mut new = connect(&url).await?;
    ping(&mut new).await?;
    assert!(timeout(200 * MS, ping(&mut old)).await.is_err());
    drop(hang);
    ping(&mut old).await?;
    proxy.close_established();
    assert!(ping(&mut new).await.is_err());
    Ok(())
}

async fn set_target(backend: Backend) -> Outcome {
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
