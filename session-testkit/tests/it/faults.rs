//! Every server fault affects a simple client, reports its effects, and heals.

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

use crate::{
    deployment::given,
    harness::{Outcome, default_backend, shared},
};

const SECONDS: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(300);

/// Checks that each fault affects its connections. The tests of the proxy cover the toxics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_faults_affect_their_connections_and_heal() -> Outcome {
    let backends = shared().await?;
    let (redis, postgres) = (backends.redis(), backends.postgres());
    let network = Network::start(2, redis.address(), postgres.address()).await?;
    let network = Arc::new(network);
    let target = Target::new(&backends).network(Arc::clone(&network));
    for fault in Fault::ALL {
        let (peer, link) = match fault {
            Fault::RedisLink(link) => (Peer::Redis, link),
            Fault::PostgresLink(link) => (Peer::Postgres, link),
            _ => continue,
        };
        let use_it = async |node: usize| {
            let proxy = network.proxy(node, peer);
            match peer {
                Peer::Redis => echo(&proxy.url(redis.url())).await.is_ok(),
                Peer::Postgres => PgConnection::connect(&proxy.url(postgres.url())).await.is_ok(),
            }
        };
        // Earlier connections may still be closing, therefore accepted ones are counted.
        let before = network.proxy(0, peer).traffic().accepted;
        let mut old = TcpStream::connect(network.proxy(0, peer).address()).await?;
        wait::until("the connection to be accepted", SECONDS, async || {
            network.proxy(0, peer).traffic().accepted > before
        })
        .await?;
        let mut broken = faults::inject(&fault, &target).await?;
        // A use may fail or hang. The report must count it.
        let _used = timeout(MOMENT, use_it(0)).await;
        let request: &[u8] = match peer {
            Peer::Redis => b"ECHO a-text-of-more-than-seven-bytes\r\n",
            // SSLRequest.
            Peer::Postgres => &[0, 0, 0, 8, 4, 210, 22, 47],
        };
        let _sent = old.write_all(request).await;
        let affected = async || broken.report().await.touched_something();
        wait::until("an effect", SECONDS, affected).await?;
        if link == Link::Partition {
            assert!(use_it(1).await, "{fault} affected the other node");
        }
        let report = broken.heal().await?;
        assert!(report.touched_something(), "{fault}: {report}");
        assert!(use_it(0).await, "{fault} did not heal");
    }
    Ok(())
}

async fn echo(url: &str) -> ::redis::RedisResult<()> {
    let mut connection = ::redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    ::redis::cmd("ECHO").arg("x".repeat(200)).exec_async(&mut connection).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_servers_refuse_faults() -> Outcome {
    let backend = default_backend().await?;
    let own = Backends::builder().backend(backend).start().await?;
    let target = Target::new(&given(&own).await?);
    for fault in Fault::ALL.into_iter().filter(|fault| !fault.is_of_connections()) {
        let refused = faults::inject(&fault, &target).await;
        assert!(
            matches!(refused, Err(FaultError::Backend(BackendError::NotAllowed { .. }))),
            "{fault}: {refused:?}"
        );
    }
    // With permission, commands work. Signals still need a process of ours.
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
