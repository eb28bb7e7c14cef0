//! The measurement: warm-up, misses, rounds.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use session_layer::store::PostgresStore;
use session_layer::{
    NewSession, Sessions,
    cache::{NoCache, RedisCache, SessionCache},
};
use tokio::time::Instant;

use super::{
    Figures, Length, Machine, ROUNDS, Report, Settings, judge,
    load::{Sums, Until, drive},
};
use crate::{
    app::App,
    backends::{BackendError, Backends, Sandbox},
    history::nanos,
    wait,
    workload::{Latencies, Latency},
};

/// The number of warm-up sessions. The measured ones must not be in the cache yet.
const WARM_UP_SESSIONS: u32 = 50;
/// The number of warm-up requests per side.
const WARM_UP: usize = 500;
/// The number of concurrent logins. A busy node may reject more than five.
const LOGINS_AT_ONCE: usize = 4;
/// The number of PINGs.
const PINGS: u32 = 200;
/// The limit for a login's turn, for connecting the cache, and for fills in the background.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// The limit for shutting down each side.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(5);

/// The progress of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) what: &'static str,
    pub(crate) done: u32,
    pub(crate) total: u32,
}

/// Measures in a new schema and namespace, which are removed afterwards.
/// The report contains failed requests.
pub(crate) async fn run(
    backends: &Backends,
    settings: &Settings,
    mut notify: impl FnMut(Progress),
) -> Result<Report, BackendError> {
    let sandbox = backends.sandbox();
    let mut done = 0;
    let mut notify = |what| {
        notify(Progress { what, done, total: 3 + 2 * ROUNDS });
        done += 1;
    };
    notify("creating sessions");
    let (without, with) = sides(&sandbox).await?;
    let warm_up = tokens(&without.sessions, WARM_UP_SESSIONS).await?;
    let measured = tokens(&without.sessions, settings.sessions).await?;
    let (machine, ping, select) = inspect(backends).await?;

    notify("warming up");
    reached(&with).await;
    for side in [&without, &with] {
        let _not_counted = drive(side, &warm_up, settings.concurrency, Until::Sent(WARM_UP)).await;
    }

    notify("misses");
    let each = Until::Sent(measured.len());
    let first = drive(&with, &measured, settings.concurrency, each).await;
    filled(&with).await;

    let (mut plain, mut cached) = (Sums::default(), Sums::default());
    for round in 0..ROUNDS {
        for (side, sums, what) in
            [(&without, &mut plain, "without the cache"), (&with, &mut cached, "with the cache")]
        {
            notify(what);
            let until = until(settings.length, round);
            sums.merge(&drive(side, &measured, settings.concurrency, until).await);
        }
    }
    let metrics = with.sessions.metrics();
    for side in [without, with] {
        // Remaining tasks end with their runtime.
        let _late = side.sessions.shutdown(SHUTDOWN).await;
    }
    let hit = cached.hits.sum();
    let figures = Figures {
        without_cache: plain.all().sum(),
        with_cache: cached.all().sum(),
        hit,
        miss: first.store.sum(),
        hit_rate: percent(hit.count, cached.sent),
        sent: plain.sent + cached.sent + first.sent,
        failed: plain.failed + cached.failed + first.failed,
        fills: metrics.fills,
        fills_refused: metrics.fills_refused,
        ping,
        select,
    };
    let verdicts = judge(&figures, &machine, settings);
    let report = Report::new(machine, settings.clone(), figures, verdicts);
    // A failed removal logs a warning.
    drop(sandbox);
    Ok(report)
}

fn until(length: Length, round: u32) -> Until {
    match length {
        // The first rounds get the remainder of the division.
        Length::Requests(all) => {
            let more = u32::from(round < all % ROUNDS);
            Until::Sent(usize::try_from(all / ROUNDS + more).unwrap_or(usize::MAX))
        }
        Length::Time(all) => Until::At(Instant::now() + all / ROUNDS),
    }
}

/// Returns a percentage, and 0 for an empty whole.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 * 100.0 / whole as f64
}

/// Creates Postgres alone and Postgres behind Redis, each with an application's defaults.
async fn sides(sandbox: &Sandbox) -> Result<(App, App), BackendError> {
    let plain = store(sandbox)?;
    plain.migrate().await.map_err(BackendError::failed("create the tables"))?;
    let cache = RedisCache::builder(sandbox.redis_url()).namespace(sandbox.namespace()).build();
    let cache = cache.map_err(BackendError::failed("configure the cache"))?;
    Ok((app(NoCache, plain)?, app(cache, store(sandbox)?)?))
}

/// Returns a store whose changes may take longer than an application's, because they are not
/// measured.
pub(crate) fn store(sandbox: &Sandbox) -> Result<PostgresStore, BackendError> {
    let store = PostgresStore::builder(sandbox.database_url()).schema(sandbox.schema());
    store.change_deadline(2 * SOON).build().map_err(BackendError::failed("configure the store"))
}

/// Returns a node with an application's defaults, whose logins may wait longer.
pub(crate) fn app(cache: impl SessionCache, store: PostgresStore) -> Result<App, BackendError> {
    let sessions = Sessions::builder(cache, store).change_wait(SOON).build();
    sessions.map(App::new).map_err(BackendError::failed("configure session-layer"))
}

/// Creates sessions and returns their `Authorization` values.
pub(crate) async fn tokens(sessions: &Sessions, count: u32) -> Result<Arc<[String]>, BackendError> {
    let logins = (0..count).map(|number| {
        let new = NewSession::new(format!("user-{number}")).data("some data of a session");
        sessions.create(new)
    });
    let tokens: Vec<_> = stream::iter(logins)
        .buffered(LOGINS_AT_ONCE)
        .map_ok(|created| format!("Bearer {}", created.token.reveal()))
        .try_collect()
        .await
        .map_err(BackendError::failed("create the sessions"))?;
    Ok(tokens.into())
}

/// Waits for the cache's connections. If they fail, the figures show it.
pub(crate) async fn reached(app: &App) {
    let connected = async || app.sessions.cache_status().connected;
    let _timeout = wait::until("the cache", SOON, connected).await;
}

/// Waits for the fills or rejections of all leases, which continue after the responses.
async fn filled(app: &App) {
    let done = async || {
        let metrics = app.sessions.metrics();
        metrics.fills + metrics.fills_refused >= metrics.misses
    };
    let _timeout = wait::until("the fills", SOON, done).await;
}

/// Returns the machine, and the round trip to each server.
async fn inspect(backends: &Backends) -> Result<(Machine, Latency, Latency), BackendError> {
    let machine = Machine::of(backends).await?;
    let mut redis = backends.redis().connect().await?;
    let ping = timed(async || redis::cmd("PING").exec_async(&mut redis).await).await;
    let ping = ping.map_err(BackendError::failed("ping Redis"))?;

    let mut postgres = backends.postgres().connect().await?;
    let select = async || sqlx::query("SELECT 1").execute(&mut postgres).await.map(drop);
    let select = timed(select).await.map_err(BackendError::failed("query Postgres"))?;
    Ok((machine, ping, select))
}

/// Measures the calls sequentially, without the first.
async fn timed<E>(mut once: impl AsyncFnMut() -> Result<(), E>) -> Result<Latency, E> {
    once().await?;
    let mut latencies = Latencies::default();
    for _ in 0..PINGS {
        let begin = std::time::Instant::now();
        once().await?;
        latencies.add(nanos(begin.elapsed()));
    }
    Ok(latencies.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_add_up_to_all_requests() {
        for all in [0, 1, 4, 5, 7, 10_003] {
            let sent = (0..ROUNDS).map(|round| match until(Length::Requests(all), round) {
                Until::Sent(sent) => sent,
                Until::At(_) => 0,
            });
            assert_eq!(sent.sum::<usize>(), all as usize);
        }
    }

    #[test]
    fn percent_of_nothing_is_0() {
        assert_eq!([percent(0, 0), percent(1, 4)], [0.0, 25.0]);
    }
}
