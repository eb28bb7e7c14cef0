//! The nodes that a stage uses. Each corresponds to one process of an application.

use std::{cell::Cell, time::Duration};

use session_layer::{
    Created, NewSession, Sessions, Source,
    cache::{self, RedisCache},
    defaults::{DEFAULT_CHANGE_WAIT, DEFAULT_VALIDATION_TIMEOUT},
    store::{self, PostgresStore},
};

use crate::{
    app::{Answer, App},
    backends::{Backends, Sandbox, chain},
    proxy::Proxy,
    wait,
};
use session_tools::check::Finding;

/// The limit for an expected event on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// How many times the defaults of an application the deadlines are, because speed is not judged
/// here.
const DEADLINE_FACTOR: u32 = 10;

const LOOK: &str = "`sessionctl check` checks each server alone. \
                    RUST_LOG=session_layer=debug shows the layer's errors";

/// The servers, with a schema and namespace on them.
pub(super) struct Nodes<'a> {
    pub(super) backends: &'a Backends,
    pub(super) sandbox: &'a Sandbox,
    /// Whether a wait for a hit has timed out. Later waits are then skipped.
    pub(super) no_hits: Cell<bool>,
}

/// A connection to a server through our proxy.
pub(super) struct Route {
    pub(super) proxy: Proxy,
    pub(super) url: String,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(backends: &'a Backends, sandbox: &'a Sandbox) -> Self {
        Self { backends, sandbox, no_hits: Cell::new(false) }
    }

    pub(super) fn store(&self, url: &str) -> Result<PostgresStore, Finding> {
        PostgresStore::builder(url)
            .schema(self.sandbox.schema())
            .read_deadline(DEADLINE_FACTOR * store::DEFAULT_READ_DEADLINE)
            .change_deadline(DEADLINE_FACTOR * store::DEFAULT_CHANGE_DEADLINE)
            .build()
            .map_err(|error| failed("Postgres can't be used", &error))
    }

    /// Creates a node with direct connections to both servers.
    pub(super) fn node(&self) -> Result<App, Finding> {
        self.node_on(self.sandbox.redis_url(), self.sandbox.database_url())
    }

    pub(super) fn node_on(&self, redis: &str, postgres: &str) -> Result<App, Finding> {
        let cache = RedisCache::builder(redis)
            .namespace(self.sandbox.namespace())
            .deadline(DEADLINE_FACTOR * cache::DEFAULT_DEADLINE)
            .build()
            .map_err(|error| failed("Redis is not usable", &error))?;
        let sessions = Sessions::builder(cache, self.store(postgres)?)
            .validation_timeout(DEADLINE_FACTOR * DEFAULT_VALIDATION_TIMEOUT)
            .change_wait(DEADLINE_FACTOR * DEFAULT_CHANGE_WAIT)
            .build();
        Ok(App::new(sessions.map_err(|error| failed("a setting is not allowed", &error))?))
    }

    /// Starts a proxy to Redis, unless a certificate for TLS would not match the proxy.
    pub(super) async fn redis_route(&self) -> Result<Option<Route>, Finding> {
        route(self.sandbox.redis_url(), self.backends.redis().address()).await
    }

    /// Starts a proxy to Postgres, with the same exception.
    pub(super) async fn postgres_route(&self) -> Result<Option<Route>, Finding> {
        route(self.sandbox.database_url(), self.backends.postgres().address()).await
    }
}

async fn route(url: &str, address: &str) -> Result<Option<Route>, Finding> {
    if url.starts_with("rediss:")
        || url.starts_with("valkeys:")
        || url.contains("sslmode=verify-full")
    {
        return Ok(None);
    }
    let proxy =
        Proxy::start(address).await.map_err(|error| failed("No proxy could be started", &error))?;
    Ok(Some(Route { url: proxy.url(url), proxy }))
}

/// Returns the finding for a check that needs a proxy.
pub(super) fn no_proxy() -> Finding {
    Finding::skipped(
        "Not examined: a TLS connection can't pass through a proxy that is then \
         cut",
    )
}

/// Returns the finding for a check that needs entries in Redis.
pub(super) fn no_entries() -> Finding {
    Finding::skipped("Not examined: this needs entries in Redis, see \"caching integration\"")
}

/// Returns the finding for a failed action.
pub(super) fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Finding {
    Finding::failed(what, chain(error), LOOK)
}

/// Logs in on this node.
pub(super) async fn login(app: &App, user: &str, data: &str) -> Result<Created, Finding> {
    let created = app.sessions.create(NewSession::new(user).data(data)).await;
    created.map_err(|error| failed("No session could be created", &error))
}

/// Sends requests until one is a hit. Returns the time and the response, or `None` after [`SOON`].
pub(super) async fn until_hit(app: &App, token: &str) -> Option<(Duration, Answer)> {
    let mut hit = None;
    let waited = wait::until("a hit", SOON, async || {
        let answer = app.send(token).await;
        if source(&answer) == Some(Source::Cache) {
            hit = Some(answer);
        }
        hit.is_some()
    });
    let waited = waited.await.ok()?;
    Some((waited, hit?))
}

pub(super) fn source(answer: &Answer) -> Option<Source> {
    answer.lookup.map(|lookup| lookup.source)
}
