//! Every server fault is seen by a plain client, says what it touched, and heals.

mod postgres;
mod redis;

use std::{sync::Arc, time::Duration};

use session_testkit::{
    backends::{BackendError, Backends},
    faults::{self, Fault, FaultError, Link, Target},
    proxy::{Network, Peer},
    wait,
};
use sqlx::{Connection as _, PgConnection};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::harness::{Outcome, default_backend, shared};

const SECONDS: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(300);

/// What each toxic does is tested with the proxy; here, that each is wired to its lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_faults_affect_their_connections_and_heal() -> Outcome {
    let backends = shared().await?;
    let (redis, postgres) = (backends.redis(), backends.postgres());
    let network = Network::start(2, redis.address(), postgres.address()).await?;
    let network = Arc::new(network);
    let target = Target::new(&backends).network(Arc::clone(&network));
    let lines = Fault::ALL.into_iter().filter_map(|fault| match fault {
        Fault::RedisLink(link) => Some((fault, Peer::Redis, link)),
        Fault::PostgresLink(link) => Some((fault, Peer::Postgres, link)),
        _ => None,
    });
    for (fault, peer, link) in lines {
        let use_it = async |node: usize| {
            let proxy = network.proxy(node, peer);
            match peer {
                Peer::Redis => talk(&proxy.url(redis.url())).await,
                Peer::Postgres => PgConnection::connect(&proxy.url(postgres.url())).await.is_ok(),
            }
        };
        // Those used before may still be closing, so the open ones tell nothing.
        let before = network.proxy(0, peer).traffic().accepted;
        let mut old = TcpStream::connect(network.proxy(0, peer).address()).await?;
        wait::until("the connection to be accepted", SECONDS, async || {
            network.proxy(0, peer).traffic().accepted > before
        })
        .await?;
        let mut broken = faults::inject(&fault, &target).await?;
        // A use may fail or hang; what counts is that it was touched.
        let _used = timeout(MOMENT, use_it(0)).await;
        let question: &[u8] = match peer {
            Peer::Redis => b"ECHO a-text-of-more-than-seven-bytes\r\n",
            // "May we speak TLS?"
            Peer::Postgres => &[0, 0, 0, 8, 4, 210, 22, 47],
        };
        let _sent = old.write_all(question).await;
        let touched =
            wait::until("a touch", SECONDS, async || broken.report().await.touched_something());
        touched.await?;
        if link == Link::Partition {
            assert!(use_it(1).await, "{fault} touched the other node");
        }
        let report = broken.heal().await?;
        assert!(report.touched_something(), "{fault}: {report}");
        assert!(use_it(0).await, "{fault} did not heal");
    }
    Ok(())
}

async fn talk(url: &str) -> bool {
    let Ok(client) = ::redis::Client::open(url) else {
        return false;
    };
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
        return false;
    };
    let text = "x".repeat(200);
    let echo = ::redis::cmd("ECHO").arg(text).exec_async(&mut connection).await;
    echo.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_refused_on_given_servers() -> Outcome {
    let backend = default_backend().await?;
    let own = Backends::builder().backend(backend).start().await?;
    let given = Backends::builder()
        .redis_url(own.redis().url())
        .database_url(own.postgres().url())
        .start()
        .await?;
    let target = Target::new(&given);
    let line = |fault: &Fault| matches!(fault, Fault::RedisLink(_) | Fault::PostgresLink(_));
    for fault in Fault::ALL.into_iter().filter(|fault| !line(fault)) {
        let refused = faults::inject(&fault, &target).await;
        assert!(
            matches!(refused, Err(FaultError::Backend(BackendError::NotAllowed { .. }))),
            "{fault}: {refused:?}"
        );
    }
    // Allowed by name; but nobody can signal what he has not started.
    let given = Backends::builder()
        .redis_url(own.redis().url())
        .database_url(own.postgres().url())
        .allow_destructive()
        .start()
        .await?;
    let target = Target::new(&given);
    faults::inject(&Fault::RedisFlushAll, &target).await?.heal().await?;
    for fault in [Fault::RedisKill, Fault::PostgresKill, Fault::RedisPause] {
        let refused = faults::inject(&fault, &target).await;
        assert!(
            matches!(refused, Err(FaultError::Backend(BackendError::NotOurs { .. }))),
            "{fault}: {refused:?}"
        );
    }
    own.redis().ping().await?;
    own.postgres().ping().await?;
    Ok(())
}
