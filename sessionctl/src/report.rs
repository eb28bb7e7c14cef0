//! `sessionctl report`: what the cache brings to a deployment, and what its failure costs, as a
//! page.

mod html;
mod judge;
mod markdown;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use serde::Serialize;
use session_layer::server_url::ServerUrl;
use session_testkit::backends::Backends;
use session_testkit::report::{Measured, Settings, measure};
use session_tools::{
    COULD_NOT_RUN, Ended, chain,
    check::{self, Target},
    exit_code,
    output::{self, visible_lines},
    progress::Bar,
    values::{DAY, SECOND, count, duration},
};

use self::judge::{Reason, Verdict, judge};

/// Measures a deployment and writes a report: latencies with Postgres alone and with the cache, the
/// hit rate, an outage of Redis over time, health, and what to do about whatever is not well.
///
/// It uses the servers of the flags, else those of the application's environment with --yes, else
/// its own. On named servers it makes load, in a schema and key namespace of its own, which it
/// removes. It needs the right to create a schema there. It cuts Redis off behind a proxy of its
/// own, so other clients notice nothing. Exit code 0: all is well, or with warnings. 1: a goal was
/// missed, or a server does not work. 2: could not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl report --html report.html
  sessionctl report --yes     # on the servers of REDIS_URL and DATABASE_URL
  sessionctl report --redis-url redis://cache.staging --database-url postgres://app@db.staging/app
  sessionctl report --requests 50000 --json")]
pub(crate) struct Arguments {
    /// The Redis to measure. Otherwise that of `REDIS_URL`, with --yes.
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,

    /// The Postgres to measure. Otherwise that of `DATABASE_URL`, with --yes.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,

    /// Make load on servers that only the environment names.
    #[arg(long)]
    yes: bool,

    /// The number of requests to measure without the cache, and again with it.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count(u32::MAX))]
    requests: u32,

    /// The number of sessions, which is also the number of misses.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = count(1_000_000))]
    sessions: u32,

    /// The number of clients. Each sends its next request after the response to the last one.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count(10_000))]
    clients: u32,

    /// How long Redis is up, then away, then up again.
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = duration(SECOND, DAY))]
    phase: Duration,

    /// Write the report as one HTML file that needs no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the report as Markdown to a file, instead of standard output.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Print one JSON document on standard output.
    #[arg(long)]
    json: bool,
}

/// The whole report.
#[derive(Serialize)]
struct Report {
    /// When it was made, in UTC.
    at: String,
    verdict: Verdict,
    reasons: Vec<Reason>,
    checks: check::Report,
    /// `None`: the servers do not work well enough to be measured.
    measured: Option<Measured>,
}

/// The reason why a file of the report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write {}", path.display())]
struct NotWritten {
    path: PathBuf,
    source: std::io::Error,
}

/// The error for a file in the place of a server.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is sqlite:, a file without Redis and Postgres, so there is nothing to measure: unset it \
     to measure servers that the report starts, or name a Redis and a Postgres"
)]
struct Sqlite(&'static str);

/// A server that a flag or a variable names.
struct Named {
    url: String,
    by_environment: bool,
}

impl Named {
    /// Returns the server of the flag, otherwise of the variable. An empty one counts as not set.
    fn find(flag: &Option<String>, variable: &str) -> Option<Self> {
        let set = |url: String| Some(url.trim().to_owned()).filter(|url| !url.is_empty());
        let named = |by_environment| move |url| Self { url, by_environment };
        let flag = flag.clone().and_then(set).map(named(false));
        flag.or_else(|| std::env::var(variable).ok().and_then(set).map(named(true)))
    }

    fn is_sqlite(&self) -> bool {
        let scheme = self.url.split(':').next();
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("sqlite"))
    }

    /// Returns the scheme, host and port.
    fn shown(&self) -> String {
        match self.url.parse::<ServerUrl>() {
            Ok(url) => url.to_string(),
            Err(_) => "a URL that is not usable".to_owned(),
        }
    }
}

pub(crate) async fn run(arguments: Arguments) -> Ended {
    let flags = (&arguments.redis_url, &arguments.database_url);
    let (redis, database) =
        (Named::find(flags.0, "REDIS_URL"), Named::find(flags.1, "DATABASE_URL"));
    if let Some(file) = database.as_ref().filter(|it| it.is_sqlite()) {
        let name = if file.by_environment { "DATABASE_URL" } else { "--database-url" };
        return Err(Sqlite(name).into());
    }
    let is_named = redis.is_some() || database.is_some();
    let named: Vec<&Named> = redis.iter().chain(&database).collect();
    let targets = named.iter().map(|it| it.shown()).collect::<Vec<_>>().join(" and ");
    if named.iter().any(|it| it.by_environment) && !arguments.yes {
        output::complain(format_args!(
            "sessionctl: the report would make load on {targets}. The environment names at least \
             one of them. Pass --yes, or name both with --redis-url and --database-url"
        ));
        return Ok(ExitCode::from(COULD_NOT_RUN));
    }
    if is_named {
        output::complain(format_args!("Measuring {targets}"));
    }
    let (redis_url, database_url) = (redis.map(|it| it.url), database.map(|it| it.url));
    let bar = Bar::new();
    let mut own = None;
    let target = if is_named {
        bar.say("checking the servers");
        let mut target = Target::new(redis_url.as_deref(), database_url.as_deref());
        target.from_env = true;
        let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        if let Some(namespace) = set("SESSION_CACHE_NAMESPACE") {
            namespace.trim().clone_into(&mut target.namespace);
        }
        if let Some(schema) = set("SESSION_DB_SCHEMA") {
            schema.trim().clone_into(&mut target.schema);
        }
        target
    } else {
        bar.say("starting servers");
        let started = Backends::builder().own().start().await?;
        let target = Target::new(Some(started.redis().url()), Some(started.postgres().url()));
        own = Some(started);
        target
    };
    let mut checks = check::check(&target, |_| {}).await;
    if own.is_some() {
        judge::leave_out_the_schema(&mut checks);
    }
    let (measured, failure) = match (own, redis_url, database_url) {
        (Some(own), ..) => measured(&own, &arguments, &bar).await,
        (None, Some(redis), Some(postgres)) if judge::can_be_measured(&checks) => {
            let builder = Backends::builder().redis_url(redis).database_url(postgres);
            match builder.start().await {
                Ok(servers) => measured(&servers, &arguments, &bar).await,
                Err(error) => (None, Some(chain(&error))),
            }
        }
        (None, Some(_), Some(_)) => (None, None),
        _ => (None, Some("name both servers, Redis and Postgres".to_owned())),
    };
    bar.clear();
    let reasons = judge(&checks, measured.as_ref(), failure.as_deref());
    let report = Report { at: now(), verdict: Verdict::of(&reasons), reasons, checks, measured };
    write(&arguments, &report)
}

async fn measured(
    servers: &Backends,
    arguments: &Arguments,
    bar: &Bar,
) -> (Option<Measured>, Option<String>) {
    let settings = Settings {
        requests: arguments.requests,
        sessions: arguments.sessions,
        clients: arguments.clients,
        phase: arguments.phase,
    };
    match measure(servers, &settings, |what, done, total| bar.at(what, done, total)).await {
        Ok(measured) => (Some(measured), None),
        Err(error) => (None, Some(chain(&error))),
    }
}

fn write(arguments: &Arguments, report: &Report) -> Ended {
    let to = |path: &PathBuf, text: String| {
        fs::write(path, text).map_err(|source| NotWritten { path: path.clone(), source })
    };
    if let Some(path) = &arguments.html {
        to(path, html::page(report))?;
    }
    let markdown = visible_lines(&markdown::page(report)).into_owned();
    match &arguments.markdown {
        Some(path) => to(path, markdown)?,
        None => output::tell(arguments.json, markdown.trim_end()),
    }
    if arguments.json {
        output::document(report)?;
    }
    Ok(match report.verdict {
        Verdict::Failed => exit_code(false),
        Verdict::Ok | Verdict::Warning => ExitCode::SUCCESS,
    })
}

/// Returns the time in UTC, such as `2026-11-22T12:00:00Z`.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let micros = i64::try_from(seconds).unwrap_or_default().saturating_mul(1_000_000);
    session_layer::Timestamp::from_micros(micros).to_string()
}
