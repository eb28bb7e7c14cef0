//! The measurements of a deployment report: [`bench`](mod@crate::bench)'s comparison of Postgres
//! alone with the cache, and an outage of Redis over time. `sessionctl report` renders and judges
//! them.
//!
//! Everything happens in a schema and key namespace of its own, which are removed afterwards. A
//! Redis that the testkit started is killed and started again. A named one is cut off behind a
//! proxy, so that its other clients notice nothing.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::Value;
use session_layer::{
    HealthService,
    cache::{DEFAULT_DEADLINE, RedisCache},
};
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::{
    app::{App, read},
    backends::{BackendError, Backends},
    bench::{self, Length, Machine, run},
    proxy::{Proxy, Toxic, ToxicGuard},
    workload::Latency,
};

/// The time of one sample.
const SAMPLE: Duration = Duration::from_millis(250);
/// The sessions that are validated during the outage.
const SESSIONS: u32 = 200;

/// The amount of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The requests to measure without the cache, and again with it: at least 1. Defaults to
    /// 10,000.
    pub requests: u32,
    /// The number of sessions, which is also the number of misses: at least 1. Defaults to 1,000.
    pub sessions: u32,
    /// The number of clients in a closed loop: at least 1. Defaults to 4.
    pub clients: u32,
    /// How long Redis is up, then away, then up again. Defaults to 4 s each.
    pub phase: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { requests: 10_000, sessions: 1_000, clients: 4, phase: Duration::from_secs(4) }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Measured {
    /// The machine and the versions of the servers.
    pub machine: Machine,
    /// How it was measured, in a sentence.
    pub method: String,
    /// The latencies by name: `postgresAlone`, `withCache`, `hit`, `miss`, `ping` (of Redis) and
    /// `select` (`SELECT 1` of Postgres).
    pub latencies: BTreeMap<&'static str, Latency>,
    /// The share of hits with the warm cache, in percent.
    pub hit_rate: f64,
    /// How much less the average latency is with the cache, in percent. `None` if nothing was
    /// measured.
    pub less_latency: Option<f64>,
    /// The goals.
    pub goals: Vec<Goal>,
    /// The outage of Redis.
    pub outage: Outage,
    /// The health document of the node after the outage.
    pub health: Value,
}

/// A goal, and whether it was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Goal {
    /// Whether it was reached.
    pub met: bool,
    /// The figure and the goal, in a line.
    pub text: String,
    /// The likely causes and remedies if it was missed.
    pub help: Vec<String>,
}

/// Requests while Redis goes away and comes back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Outage {
    /// How Redis went away: `killed` or `cut off behind a proxy`. `None`: it was not examined,
    /// because a connection with TLS cannot pass through a proxy.
    pub how: Option<&'static str>,
    /// The samples, each over a quarter of a second, from an empty cache on.
    pub samples: Vec<Sample>,
    /// When Redis went away, in ms since the start.
    pub down_ms: u64,
    /// When Redis was back.
    pub up_ms: u64,
    /// The end of the first sample after that in which nine of ten requests were hits.
    pub hits_again_ms: Option<u64>,
}

/// The requests of one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Sample {
    /// The end of the sample, in ms since the start.
    pub at_ms: u64,
    /// The requests.
    pub requests: u64,
    /// Those without a 200 response.
    pub failed: u64,
    /// The share of hits, in percent.
    pub hit_rate: f64,
    /// The 99th percentile of their latency, in microseconds.
    pub p99_us: u64,
}

/// Measures on these servers. `notify` gets what happens, the parts done, and the number of parts.
///
/// # Errors
/// [`BackendError`] if a server does not respond, or if the tables cannot be created.
pub async fn measure(
    backends: &Backends,
    settings: &Settings,
    mut notify: impl FnMut(&str, u32, u32),
) -> Result<Measured, BackendError> {
    let bench = bench::Settings {
        length: Length::Requests(settings.requests),
        concurrency: settings.clients,
        sessions: settings.sessions,
    };
    let report = run(backends, &bench, |progress| {
        notify(progress.what, progress.done, progress.total + 1);
    })
    .await?;
    notify("an outage of Redis", 1, 2);
    let (outage, health) = outage(backends, settings).await?;
    let figures = report.figures;
    let goals = report.verdicts.into_iter().map(|verdict| Goal {
        met: verdict.met,
        text: verdict.to_string(),
        help: verdict.help,
    });
    Ok(Measured {
        machine: report.machine,
        method: report.method,
        hit_rate: figures.hit_rate,
        less_latency: report.improvement.mean,
        goals: goals.collect(),
        latencies: BTreeMap::from([
            ("postgresAlone", figures.without_cache),
            ("withCache", figures.with_cache),
            ("hit", figures.hit),
            ("miss", figures.miss),
            ("ping", figures.ping),
            ("select", figures.select),
        ]),
        outage,
        health,
    })
}

/// How Redis goes away and comes back.
enum Switch {
    Server,
    Proxy(Box<Proxy>),
}

impl Switch {
    async fn down(&self, backends: &Backends) -> Result<Option<ToxicGuard>, BackendError> {
        match self {
            Self::Server => backends.redis().kill().await.map(|()| None),
            Self::Proxy(proxy) => Ok(Some(proxy.inject(Toxic::down()))),
        }
    }

    async fn up(&self, backends: &Backends, toxic: Option<ToxicGuard>) -> Result<(), BackendError> {
        drop(toxic);
        match self {
            Self::Server => backends.redis().restart().await,
            Self::Proxy(_) => Ok(()),
        }
    }
}

async fn outage(backends: &Backends, settings: &Settings) -> Result<(Outage, Value), BackendError> {
    let sandbox = backends.sandbox();
    let store = run::store(&sandbox)?;
    store.migrate().await.map_err(BackendError::failed("create the tables"))?;
    let url = sandbox.redis_url();
    let is_own = backends.redis().backend().is_some();
    let is_tls = ["rediss", "valkeys"].iter().any(|scheme| url.starts_with(scheme));
    let (switch, how) = match (is_own, is_tls) {
        (true, _) => (Some(Switch::Server), Some("killed")),
        (false, true) => (None, None),
        (false, false) => {
            let proxy = Proxy::start(backends.redis().address()).await;
            let proxy = proxy.map_err(BackendError::failed("start a proxy"))?;
            (Some(Switch::Proxy(Box::new(proxy))), Some("cut off behind a proxy"))
        }
    };
    let url = match &switch {
        Some(Switch::Proxy(proxy)) => proxy.url(url),
        _ => url.to_owned(),
    };
    let cache = RedisCache::builder(url).namespace(sandbox.namespace());
    let cache = cache.deadline(DEFAULT_DEADLINE).build();
    let app = run::app(cache.map_err(BackendError::failed("configure the cache"))?, store)?;
    let tokens = run::tokens(&app.sessions, SESSIONS).await?;
    run::reached(&app).await;

    let mut outage = Outage { how, ..Outage::default() };
    let began = Instant::now();
    let since = |at: Instant| u64::try_from((at - began).as_millis()).unwrap_or(u64::MAX);
    let sampled = async |outage: &mut Outage| {
        let end = Instant::now() + settings.phase;
        while Instant::now() < end {
            let until = bench::Until::At(Instant::now() + SAMPLE);
            let sums = bench::drive(&app, &tokens, settings.clients, until).await;
            outage.samples.push(Sample {
                at_ms: since(Instant::now()),
                requests: sums.sent,
                failed: sums.failed,
                hit_rate: run::percent(sums.hits.sum().count, sums.sent),
                p99_us: sums.all().sum().p99_us,
            });
        }
    };
    sampled(&mut outage).await;
    if let Some(switch) = &switch {
        let toxic = switch.down(backends).await?;
        outage.down_ms = since(Instant::now());
        sampled(&mut outage).await;
        switch.up(backends, toxic).await?;
        outage.up_ms = since(Instant::now());
        sampled(&mut outage).await;
        let mut after = outage.samples.iter().filter(|sample| sample.at_ms > outage.up_ms);
        outage.hits_again_ms =
            after.find(|sample| sample.hit_rate >= 90.0).map(|sample| sample.at_ms);
    }
    let health = health(&app).await;
    let _late = app.sessions.shutdown(run::SHUTDOWN).await;
    drop(sandbox);
    Ok((outage, health))
}

async fn health(app: &App) -> Value {
    let service = HealthService::report(app.sessions.clone());
    let Ok(response) = service.oneshot(http::Request::new(())).await;
    read(response).await.body
}
