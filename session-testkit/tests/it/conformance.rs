//! Our own ports under the checks that anybody's must pass: one test for each check.

use std::sync::Arc;
use std::time::Duration;

use session_layer::cache::{MemoryCache, RedisCache, SessionCache as _};
use session_layer::store::{PostgresStore, SessionStore as _, SqliteStore};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::conformance::{self, Nodes};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Failure, Outcome, Registry};
use crate::support::{SOON, cache_within, store};

/// What is checked is what happens, not how fast this machine is.
const PATIENT: Duration = Duration::from_secs(3);

pub(crate) fn tests(reg: &mut Registry) {
    for check in conformance::cache_checks() {
        reg.plain(&format!("memory::{}", check.name()), move || async move {
            Ok(check.run(&Nodes::one(MemoryCache::new(10_000))).await?)
        });
    }
    for check in conformance::cache_checks() {
        let name = format!("redis::{}", check.name());
        reg.shared(&name, move |backends: Arc<Backends>| async move {
            let sandbox = backends.sandbox();
            let node = || cache_within(PATIENT, sandbox.redis_url(), &sandbox);
            Ok(check.run(&Nodes::two(node()?, node()?)).await?)
        });
    }
    for check in conformance::store_checks() {
        reg.plain(&format!("sqlite::{}", check.name()), move || async move {
            Ok(check.run(&SqliteStore::open(":memory:").await?).await?)
        });
    }
    for check in conformance::store_checks() {
        let name = format!("postgres::{}", check.name());
        reg.shared(&name, move |backends: Arc<Backends>| async move {
            let sandbox = backends.sandbox();
            Ok(check.run(&store(&sandbox).await?).await?)
        });
    }
    reg.plain("redis_that_is_not_there", redis_not_there);
    reg.plain("postgres_that_is_not_there", postgres_not_there);
    reg.shared("redis_that_hangs", redis_hangs);
    reg.shared("postgres_that_hangs", postgres_hangs);
}

/// An address that somebody had a moment ago, and nobody has now.
fn nobody_listens() -> std::io::Result<std::net::SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

async fn redis_not_there() -> Outcome {
    let url = format!("redis://{}", nobody_listens()?);
    conformance::cache_in_outage(async || RedisCache::builder(&url).build()).await?;
    Ok(())
}

async fn postgres_not_there() -> Outcome {
    let url = format!("postgres://nobody@{}/nothing", nobody_listens()?);
    conformance::store_in_outage(async || PostgresStore::builder(&url).connect_lazy()).await?;
    Ok(())
}

/// It was connected, and then its server falls silent, for new connections too.
async fn redis_hangs(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let proxy = Proxy::start(backends.redis().address()).await?;
    let url = proxy.url(sandbox.redis_url());
    let mut hanging = Vec::new();
    for _ in conformance::cache_outage_checks::<RedisCache>() {
        hanging.push(connected(&url, &sandbox).await?);
    }
    let _hang = proxy.inject(Toxic::hold());
    let next = || std::future::ready(hanging.pop().ok_or("no more caches"));
    conformance::cache_in_outage(next).await?;
    Ok(())
}

async fn connected(url: &str, sandbox: &Sandbox) -> Result<RedisCache, Failure> {
    let cache = cache_within(Duration::from_millis(200), url, sandbox)?;
    wait::until("Redis to be in use", SOON, async || {
        cache.status().connected
    })
    .await?;
    Ok(cache)
}

async fn postgres_hangs(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let proxy = Proxy::start(backends.postgres().address()).await?;
    store(&sandbox).await?;
    let store = PostgresStore::builder(&proxy.url(sandbox.database_url()))
        .schema(sandbox.schema())
        .read_deadline(Duration::from_secs(1))
        .change_deadline(Duration::from_secs(1))
        .connect_lazy()?;
    wait::until("Postgres to answer", SOON, async || {
        store.probe().await.is_ok()
    })
    .await?;
    let _hang = proxy.inject(Toxic::hold());
    conformance::store_in_outage(async || Ok::<_, std::convert::Infallible>(store.clone())).await?;
    Ok(())
}
