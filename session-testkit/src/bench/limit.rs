//! The search for the highest rate of requests at which the p99 stays within a bar: with Redis, and
//! with Postgres alone because Redis is unreachable.
//!
//! The loop is open: requests arrive at a fixed rate, whatever the replies. The latency of a
//! request counts from its intended arrival. A stall therefore delays every request that arrives
//! during it, and no omitted request hides it.
//!
//! A rate is tried for a fixed time, after a short warm-up. [`Search`] selects the next rate.

mod arrivals;
mod report;
mod search;
mod tally;

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use session_layer::{BreakerState, cache::RedisCache};

pub(crate) use self::report::{Found, Report};
use self::{
    arrivals::arrive,
    search::Search,
    tally::{Tally, Trial},
};
use super::{
    Machine, Progress,
    load::{Until, drive},
    run::{SHUTDOWN, SOON, app, store, tokens},
};
use crate::{
    app::App,
    backends::{BackendError, Backends, Sandbox},
    proxy::{Proxy, Toxic},
    wait,
};

/// The first rate that is tried, in requests per second.
const FIRST_RATE: u32 = 1_000;
/// The highest rate that is tried. One process cannot send more.
const HIGHEST_RATE: u32 = 1_000_000;
/// The number of clients of the warm-up.
const CLIENTS: u32 = 16;
/// The number of trials that the progress counts on for each half.
const TRIALS: u32 = 15;

/// The search to make.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Settings {
    /// The bar: the p99 must not exceed it. Defaults to 30 ms.
    #[serde(rename = "barSecs", serialize_with = "super::seconds")]
    pub(crate) bar: Duration,
    /// The time for which requests arrive at one rate. Defaults to 2 s.
    #[serde(rename = "secs", serialize_with = "super::seconds")]
    pub(crate) trial: Duration,
    /// The number of sessions, which are validated in turn. Defaults to 1,000.
    pub(crate) sessions: u32,
}

/// Searches both rates in a new schema and namespace, which are removed afterwards.
pub(crate) async fn run(
    backends: &Backends,
    settings: &Settings,
    mut notify: impl FnMut(Progress),
) -> Result<Report, BackendError> {
    let sandbox = backends.sandbox();
    let mut done = 0;
    let mut notify = |what| {
        notify(Progress { what, done, total: 1 + 2 * TRIALS });
        done = (done + 1).min(2 * TRIALS);
    };
    notify("creating sessions");
    let machine = Machine::of(backends).await?;
    store(&sandbox)?.migrate().await.map_err(BackendError::failed("create the tables"))?;

    let app = node(&sandbox, sandbox.redis_url())?;
    let tokens = tokens(&app.sessions, settings.sessions).await?;
    let connected = async || app.sessions.cache_status().connected;
    wait::until("the cache", SOON, connected)
        .await
        .map_err(BackendError::failed("reach Redis from the node"))?;
    let healthy = search(&app, &tokens, settings, || notify("with Redis")).await;
    let _late = app.sessions.shutdown(SHUTDOWN).await;

    let proxy = Proxy::start(backends.redis().address()).await;
    let proxy = proxy.map_err(BackendError::failed("start a proxy to Redis"))?;
    let down = proxy.inject(Toxic::down());
    let app = node(&sandbox, &proxy.url(sandbox.redis_url()))?;
    let without_redis = search(&app, &tokens, settings, || notify("without Redis")).await;
    let _late = app.sessions.shutdown(SHUTDOWN).await;
    down.heal();

    // A failed removal logs a warning.
    drop(sandbox);
    Ok(Report::new(machine, settings.clone(), healthy, without_redis))
}

/// Creates a node with an application's defaults, whose logins may take longer.
fn node(sandbox: &Sandbox, redis_url: &str) -> Result<App, BackendError> {
    let cache = RedisCache::builder(redis_url).namespace(sandbox.namespace()).build();
    app(cache.map_err(BackendError::failed("configure the cache"))?, store(sandbox)?)
}

async fn search(
    app: &App,
    tokens: &Arc<[String]>,
    settings: &Settings,
    mut notify: impl FnMut(),
) -> Found {
    let mut search = Search::new(FIRST_RATE, HIGHEST_RATE);
    let mut trials = Vec::new();
    while let Some(rate) = search.rate() {
        notify();
        recovered(app, tokens).await;
        let mut tally = Tally::new(settings.bar);
        arrive(app, tokens, rate, settings.trial, &mut tally).await;
        let trial = tally.trial(rate);
        search.record(trial.passed);
        trials.push(trial);
    }
    let hit_rate = app.sessions.metrics().hit_rate();
    Found { limit: search.limit(), hit_rate, trials }
}

/// Validates every session, so that the cache has those that it lost. Then waits until the breaker
/// is closed again, because the last rate may have been too high for Redis.
async fn recovered(app: &App, tokens: &Arc<[String]>) {
    let _not_counted = drive(app, tokens, CLIENTS, Until::Sent(tokens.len())).await;
    let closed = async || {
        !app.sessions.cache_status().connected || app.sessions.breaker() == BreakerState::Closed
    };
    let _timeout = wait::until("the breaker", SOON, closed).await;
}
