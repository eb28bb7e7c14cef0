//! The nodes that a stage asks: each what one process of an application is.

use std::{cell::Cell, time::Duration};

use session_layer::{Created, NewSession, Sessions, Tier, cache::RedisCache, store::PostgresStore};

use crate::{
    app::{Answer, App},
    backends::{Backends, Sandbox, chain},
    check::Finding,
    proxy::Proxy,
    wait,
};

/// How long something that must come may take on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Ten times an application's, more or less: what is looked at is what is answered, not how fast.
const CACHE_DEADLINE: Duration = Duration::from_millis(500);
const READ_DEADLINE: Duration = Duration::from_secs(2);
const BUDGET: Duration = Duration::from_secs(4);

const LOOK: &str = "`session-testkit check` looks at each server alone; RUST_LOG=session_layer=debug says what the layer met";

/// Servers, and a schema and namespace on them.
pub(super) struct Nodes<'a> {
    pub(super) backends: &'a Backends,
    pub(super) sandbox: &'a Sandbox,
    /// It was waited for a hit in vain, so nobody need wait for the next.
    pub(super) no_hits: Cell<bool>,
}

/// A server behind a proxy of ours.
pub(super) struct Line {
    pub(super) proxy: Proxy,
    pub(super) url: String,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(backends: &'a Backends, sandbox: &'a Sandbox) -> Self {
        Self {
            backends,
            sandbox,
            no_hits: Cell::new(false),
        }
    }

    pub(super) fn store(&self, url: &str) -> Result<PostgresStore, Finding> {
        PostgresStore::builder(url)
            .schema(self.sandbox.schema())
            .read_deadline(READ_DEADLINE)
            .connect_lazy()
            .map_err(|error| failed("Postgres can't be used", &error))
    }

    /// A node straight on both servers.
    pub(super) fn node(&self) -> Result<App, Finding> {
        self.node_on(self.sandbox.redis_url(), self.sandbox.database_url())
    }

    pub(super) fn node_on(&self, redis: &str, postgres: &str) -> Result<App, Finding> {
        let cache = RedisCache::builder(redis)
            .namespace(self.sandbox.namespace())
            .deadline(CACHE_DEADLINE)
            .build()
            .map_err(|error| failed("Redis can't be used", &error))?;
        let builder = Sessions::builder(cache, self.store(postgres)?);
        Ok(App::new(builder.budget(BUDGET).build()))
    }

    /// The Redis behind a proxy; `None` where TLS would meet a name that is not in its certificate.
    pub(super) async fn redis_line(&self) -> Result<Option<Line>, Finding> {
        line(self.sandbox.redis_url(), self.backends.redis().address()).await
    }

    /// The same for Postgres.
    pub(super) async fn postgres_line(&self) -> Result<Option<Line>, Finding> {
        line(
            self.sandbox.database_url(),
            self.backends.postgres().address(),
        )
        .await
    }
}

async fn line(url: &str, address: &str) -> Result<Option<Line>, Finding> {
    if url.starts_with("rediss:")
        || url.starts_with("valkeys:")
        || url.contains("sslmode=verify-full")
    {
        return Ok(None);
    }
    let proxy = Proxy::start(address)
        .await
        .map_err(|error| failed("No proxy could be started", &error))?;
    Ok(Some(Line {
        url: proxy.url(url),
        proxy,
    }))
}

/// Where a line could not be had.
pub(super) fn no_line() -> Finding {
    Finding::skipped(
        "Not examined: the connection is by TLS, which can't be led through a proxy that is then cut",
    )
}

/// Where nothing is ever cached.
pub(super) fn no_copies() -> Finding {
    Finding::skipped("Not examined: it takes copies in Redis, see \"caching integration\"")
}

/// What could not be done, and why.
pub(super) fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Finding {
    Finding::failed(what, chain(error), LOOK)
}

/// A login on this node.
pub(super) async fn login(app: &App, user: &str, data: &str) -> Result<Created, Finding> {
    let created = app.sessions.create(NewSession::new(user).data(data)).await;
    created.map_err(|error| failed("No session could be created", &error))
}

/// Asks until the cache answers; how long that took, and its answer. `None` after [`SOON`].
pub(super) async fn until_hit(app: &App, token: &str) -> Option<(Duration, Answer)> {
    let mut hit = None;
    let waited = wait::until("a hit", SOON, async || {
        let answer = app.ask(token).await;
        if tier(&answer) == Some(Tier::Cache) {
            hit = Some(answer);
        }
        hit.is_some()
    });
    let waited = waited.await.ok()?;
    Some((waited, hit?))
}

pub(super) fn tier(answer: &Answer) -> Option<Tier> {
    answer.answered.map(|answered| answered.tier)
}
