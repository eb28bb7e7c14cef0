//! The conformance checks on the ports of session-layer.

use std::sync::Arc;
use std::time::Duration;

use session_layer::cache::{MemoryCache, RedisCache, SessionCache as _};
use session_layer::store::{PostgresStore, SessionStore as _, SqliteStore};
use session_testkit::backends::{Backend, Backends, Sandbox};
use session_testkit::conformance::{self, Check, Nodes};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{Failure, Outcome, on_each_backend};
use crate::support::{SOON, cache_within, store};

/// A deadline that a busy machine does not exceed.
const PATIENT: Duration = Duration::from_secs(3);

/// The number of concurrent checks. Most of them wait for a lease or a fence to lapse.
const AT_ONCE: usize = 4;

/// Runs each check on its own port, and fails with all failures. `fresh` returns a port with a
/// guard that must outlive it.
async fn conforms<P, G, T>(checks: Vec<Check<P>>, fresh: impl Fn() -> T) -> Outcome
where
    P: Send + Sync + 'static,
    G: Send + 'static,
    T: Future<Output = Result<(P, G), Failure>>,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for check in checks {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (port, guard) = fresh().await?;
        running.spawn(async move {
            let failed = check.run(&port).await.err();
            drop((port, guard, place));
            failed.map(|why| format!("{}: {why}", check.name()))
        });
    }
    let failed: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert_eq!(failed, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_cache_conforms() -> Outcome {
    conforms(conformance::cache_checks(), async || Ok((Nodes::one(MemoryCache::new(10_000)), ())))
        .await
}

on_each_backend!(redis_cache_conforms);
async fn redis_cache_conforms(backend: Backend) -> Outcome {
    let backends = Backends::shared(backend).await?;
    conforms(conformance::cache_checks(), async || {
        let sandbox = backends.sandbox();
        let node = || cache_within(PATIENT, sandbox.redis_url(), &sandbox);
        Ok((Nodes::two(node()?, node()?), sandbox))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_store_conforms() -> Outcome {
    conforms(conformance::store_checks(), async || Ok((SqliteStore::open(":memory:").await?, ())))
        .await
}

on_each_backend!(postgres_store_conforms);
async fn postgres_store_conforms(backend: Backend) -> Outcome {
    let backends = Backends::shared(backend).await?;
    conforms(conformance::store_checks(), async || {
        let sandbox = backends.sandbox();
        Ok((store(&sandbox).await?, sandbox))
    })
    .await
}

/// Returns an address on which no server listens.
fn unused_address() -> std::io::Result<std::net::SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_redis_is_an_outage() -> Outcome {
    let url = format!("redis://{}", unused_address()?);
    conformance::run(conformance::cache_outage_checks(), async || {
        RedisCache::builder(&url).build()
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_postgres_is_an_outage() -> Outcome {
    let url = format!("postgres://user@{}/nothing", unused_address()?);
    conformance::run(conformance::store_outage_checks(), async || {
        PostgresStore::builder(&url).build()
    })
    .await?;
    Ok(())
}

on_each_backend!(redis_that_hangs);
/// Stops the replies of a connected server, also on new connections.
async fn redis_that_hangs(backend: Backend) -> Outcome {
    let backends = Backends::shared(backend).await?;
    let sandbox = backends.sandbox();
    let proxy = Proxy::start(backends.redis().address()).await?;
    let url = proxy.url(sandbox.redis_url());
    let mut hanging = Vec::new();
    for _ in conformance::cache_outage_checks::<RedisCache>() {
        hanging.push(connected(&url, &sandbox).await?);
    }
    let _hang = proxy.inject(Toxic::hold());
    let next = || std::future::ready(hanging.pop().ok_or("no more caches"));
    conformance::run(conformance::cache_outage_checks(), next).await?;
    Ok(())
}

async fn connected(url: &str, sandbox: &Sandbox) -> Result<RedisCache, Failure> {
    let cache = cache_within(Duration::from_millis(200), url, sandbox)?;
    wait::until("Redis to be in use", SOON, async || cache.status().connected).await?;
    Ok(cache)
}

on_each_backend!(postgres_that_hangs);
async fn postgres_that_hangs(backend: Backend) -> Outcome {
    let backends = Backends::shared(backend).await?;
    let sandbox = backends.sandbox();
    let proxy = Proxy::start(backends.postgres().address()).await?;
    store(&sandbox).await?;
    let store = PostgresStore::builder(proxy.url(sandbox.database_url()))
        .schema(sandbox.schema())
        .read_deadline(Duration::from_secs(1))
        .change_deadline(Duration::from_secs(1))
        .build()?;
    wait::until("Postgres to reply", SOON, async || store.probe().await.is_ok()).await?;
    let _hang = proxy.inject(Toxic::hold());
    conformance::run(conformance::store_outage_checks(), async || {
        Ok::<_, std::convert::Infallible>(store.clone())
    })
    .await?;
    Ok(())
}
