//! The order of things: warm-up, misses, rounds.

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use session_layer::{
    ConfigError, Error, NewSession, Sessions, StoreError,
    cache::{NoCache, RedisCache},
    store::PostgresStore,
};
use sqlx::Connection as _;
use tokio::time::Instant;

use super::{
    Figures, Length, Machine, ROUNDS, Report, Settings, judge,
    load::{Sums, Until, drive},
};
use crate::{
    app::App,
    backends::{BackendError, Backends, Kind, Sandbox, Server},
    history::nanos,
    wait,
    workload::{Latencies, Latency},
};

/// Sessions of the warm-up: others than those that are measured, which the cache must not know yet.
const WARM_UP_SESSIONS: u32 = 50;
/// Requests of the warm-up, for each side.
const WARM_UP: usize = 500;
/// How many logins are under way at a time, and PINGs are sent.
const CHUNK: u32 = 20;
const PINGS: u32 = 200;
/// How long is waited for the cache to be reached, and for fills, which nobody else waits for.
const SOON: Duration = Duration::from_secs(5);
/// Ends what is left of both sides.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What begins now.
    pub what: &'static str,
    /// How many parts are done.
    pub done: u32,
    /// Of how many.
    pub total: u32,
}

/// It could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A server did not answer.
    #[error("the servers could not be asked")]
    Backend(#[from] BackendError),
    /// The cache could not be set up.
    #[error("the cache could not be set up")]
    Cache(#[from] ConfigError),
    /// The tables could not be made.
    #[error("the tables could not be made")]
    Store(#[from] StoreError),
    /// The sessions could not be created.
    #[error("the sessions could not be created")]
    Create(#[from] Error),
    /// Redis did not answer while it was being looked at.
    #[error("Redis could not be looked at")]
    Redis(#[from] redis::RedisError),
    /// Postgres did not answer while it was being looked at.
    #[error("Postgres could not be looked at")]
    Postgres(#[from] sqlx::Error),
}

/// Measures, in a schema and namespace of its own, which are removed afterwards.
///
/// # Errors
///
/// [`BenchError`] where there is nothing to measure. Requests that fail are in the report.
pub async fn run(
    backends: &Backends,
    settings: &Settings,
    mut tell: impl FnMut(Progress),
) -> Result<Report, BenchError> {
    let sandbox = backends.sandbox();
    let mut done = 0;
    let mut tell = |what| {
        tell(Progress {
            what,
            done,
            total: 3 + 2 * ROUNDS,
        });
        done += 1;
    };
    tell("creating sessions");
    let (without, with) = sides(&sandbox).await?;
    let warm_up = tokens(&without.sessions, WARM_UP_SESSIONS).await?;
    let measured = tokens(&without.sessions, settings.sessions).await?;
    let (machine, ping, select) = look(backends).await?;

    tell("warming up");
    reached(&with).await;
    for side in [&without, &with] {
        let _not_counted = drive(side, &warm_up, settings.concurrency, Until::Sent(WARM_UP)).await;
    }

    tell("misses");
    let each = Until::Sent(measured.len());
    let first = drive(&with, &measured, settings.concurrency, each).await;
    filled(&with).await;

    let (mut plain, mut cached) = (Sums::default(), Sums::default());
    for round in 0..ROUNDS {
        for (side, sums, what) in [
            (&without, &mut plain, "without the cache"),
            (&with, &mut cached, "with the cache"),
        ] {
            tell(what);
            let until = until(settings.length, round);
            sums.merge(&drive(side, &measured, settings.concurrency, until).await);
        }
    }
    let metrics = with.sessions.metrics();
    for side in [without, with] {
        // What is still under way ends with its runtime.
        let _late = side.sessions.shutdown(SHUTDOWN).await;
    }
    let figures = Figures {
        without_cache: plain.all.sum(),
        with_cache: cached.all.sum(),
        hit: cached.hits.sum(),
        miss: first.store.sum(),
        hit_rate: percent(cached.hit_count, cached.sent),
        sent: plain.sent + cached.sent + first.sent,
        failed: plain.failed + cached.failed + first.failed,
        fills: metrics.fills,
        fills_refused: metrics.fills_refused,
        ping,
        select,
    };
    let verdicts = judge(&figures, &machine, settings);
    let report = Report::new(machine, settings.clone(), figures, verdicts);
    // A sandbox that could not be removed says so itself.
    drop(sandbox);
    Ok(report)
}

fn until(length: Length, round: u32) -> Until {
    match length {
        // What can't be divided evenly goes to the first rounds.
        Length::Requests(all) => {
            let more = u32::from(round < all % ROUNDS);
            Until::Sent(usize::try_from(all / ROUNDS + more).unwrap_or(usize::MAX))
        }
        Length::Time(all) => Until::At(Instant::now() + all / ROUNDS),
    }
}

/// In percent; 0 of nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests are far below 2^52"
)]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 * 100.0 / whole as f64
}

/// Postgres alone, and behind Redis: each with its own pool, with the defaults of an application.
async fn sides(sandbox: &Sandbox) -> Result<(App, App), BenchError> {
    let store = || {
        PostgresStore::builder(sandbox.database_url())
            .schema(sandbox.schema())
            .connect_lazy()
    };
    let plain = store()?;
    plain.migrate().await?;
    let cache = RedisCache::builder(sandbox.redis_url()).namespace(sandbox.namespace());
    Ok((
        App::new(Sessions::builder(NoCache, plain).build()),
        App::new(Sessions::builder(cache.build()?, store()?).build()),
    ))
}

/// New sessions, as values of the `Authorization` field.
async fn tokens(sessions: &Sessions, count: u32) -> Result<Arc<[String]>, Error> {
    let mut tokens = Vec::new();
    let numbers: Vec<u32> = (0..count).collect();
    for chunk in numbers.chunks(CHUNK as usize) {
        let logins = chunk.iter().map(|number| {
            let new = NewSession::new(format!("user-{number}")).data("some data of a session");
            sessions.create(new)
        });
        for created in try_join_all(logins).await? {
            tokens.push(format!("Bearer {}", created.token.reveal()));
        }
    }
    Ok(tokens.into())
}

/// Waits for the cache's connections. Where they do not come, the figures show it.
async fn reached(app: &App) {
    let connected = async || app.sessions.cache_status().connected;
    let _in_vain = wait::until("the cache", SOON, connected).await;
}

/// Waits until every lease has come to something: fills go on behind the answers.
async fn filled(app: &App) {
    let done = async || {
        let metrics = app.sessions.metrics();
        metrics.fills + metrics.fills_refused >= metrics.misses
    };
    let _in_vain = wait::until("the fills", SOON, done).await;
}

/// What the servers are, and what the way to each takes by itself.
async fn look(backends: &Backends) -> Result<(Machine, Latency, Latency), BenchError> {
    let mut redis = backends.redis().connect().await?;
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut redis)
        .await
        // It may be denied, and is needed for nothing else.
        .unwrap_or_default();
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    let redis_is = described(version.unwrap_or("of unknown version"), backends.redis());
    let ping = timed(async || redis::cmd("PING").exec_async(&mut redis).await).await?;

    let mut postgres = backends.postgres().connect().await?;
    let version: String = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&mut postgres)
        .await?;
    // "15.18 (Debian …)"
    let version = version.split(' ').next().unwrap_or_default();
    let postgres_is = described(version, backends.postgres());
    let select = timed(async || {
        let one = sqlx::query("SELECT 1").execute(&mut postgres).await;
        one.map(|_| ())
    })
    .await?;
    postgres.close().await?;
    Ok((Machine::this(redis_is, postgres_is), ping, select))
}

fn described<K: Kind>(version: &str, server: &Server<K>) -> String {
    match server.backend() {
        Some(backend) => format!("{version}, {backend}"),
        None => format!("{version}, given"),
    }
}

/// One after the other, the first not counted.
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
    fn the_rounds_are_all_that_was_asked_for() {
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
