//! `session-testkit bench`

use std::{fmt::Display, time::Duration};

use serde::Serialize;

use super::{
    Ended, Failure, exit_code, output,
    progress::Bar,
    servers::Servers,
    values::{DAY, SECOND, count, duration},
};
use crate::{
    backends::Backends,
    bench::{self, Length, Progress, Settings, limit},
};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Measures the same validations without the cache and with it, and judges each goal.
///
/// Goals: p99 below 5 ms for a hit and below 30 ms for a miss. Over 90 % hits once warm. At least
/// 70 % less latency on average than Postgres alone. Without named servers, the command starts its
/// own and stops them afterwards. On named servers it works in its own schema and key namespace,
/// which it removes. Exit code 0: all goals were reached. 1: a goal was missed. 2: could not run.
///
/// With --find-limit it finds the highest rate of requests whose p99 stays within a bar instead,
/// with Redis and with Redis unreachable. The second rate is what Postgres can carry alone.
/// Requests arrive at a fixed rate, whatever the replies. Their latency counts from the intended
/// arrival. Exit code 1: no rate stays within the bar. On named servers the search loads both to
/// their limit.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  session-testkit bench
  session-testkit bench --duration 30s --concurrency 16 --json
  session-testkit bench --find-limit --bar 20ms
  session-testkit bench --redis-url redis://cache.staging --database-url \
  postgres://app@db.staging/app")]
pub(super) struct Arguments {
    #[command(flatten)]
    servers: Servers,

    /// The number of requests to measure without the cache, and again with it.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count(u32::MAX))]
    requests: u32,

    /// The time to measure without the cache, and again with it, instead of a number of requests.
    #[arg(
        long,
        value_name = "DURATION",
        conflicts_with = "requests",
        value_parser = duration(50 * MILLISECOND, DAY)
    )]
    duration: Option<Duration>,

    /// The number of clients. Each sends its next request after the response to the last one.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count(10_000))]
    concurrency: u32,

    /// Find the highest rate of requests at which the p99 stays within --bar. --duration is then
    /// the time for each rate that is tried, 2s by default.
    #[arg(long, conflicts_with_all = ["requests", "concurrency"])]
    find_limit: bool,

    /// The highest p99 that --find-limit accepts.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30ms",
        requires = "find_limit",
        value_parser = duration(MILLISECOND, HOUR)
    )]
    bar: Duration,

    /// The number of sessions, which are validated in turn.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = count(1_000_000))]
    sessions: u32,

    /// Print one JSON document on standard output, and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Ended {
    let bar = Bar::new();
    bar.say("starting servers");
    let backends = arguments.servers.start().await?;
    let notify = |progress: Progress| bar.at(progress.what, progress.done, progress.total);
    let (ok, report) = if arguments.find_limit {
        find_limit(&arguments, &backends, notify).await?
    } else {
        compare(&arguments, &backends, notify).await?
    };
    bar.clear();
    output::say(report.trim_end());
    Ok(exit_code(ok))
}

async fn compare(
    arguments: &Arguments,
    backends: &Backends,
    notify: impl FnMut(Progress),
) -> Result<(bool, String), Failure> {
    let settings = Settings {
        length: arguments.duration.map_or(Length::Requests(arguments.requests), Length::Time),
        concurrency: arguments.concurrency,
        sessions: arguments.sessions,
    };
    let report = bench::run(backends, &settings, notify).await?;
    Ok((report.ok, text(arguments, &report)?))
}

async fn find_limit(
    arguments: &Arguments,
    backends: &Backends,
    notify: impl FnMut(Progress),
) -> Result<(bool, String), Failure> {
    let settings = limit::Settings {
        bar: arguments.bar,
        trial: arguments.duration.unwrap_or(2 * SECOND),
        sessions: arguments.sessions,
    };
    let report = limit::run(backends, &settings, notify).await?;
    Ok((report.ok, text(arguments, &report)?))
}

fn text(
    arguments: &Arguments,
    report: &(impl Serialize + Display),
) -> Result<String, serde_json::Error> {
    if arguments.json { serde_json::to_string_pretty(report) } else { Ok(report.to_string()) }
}
