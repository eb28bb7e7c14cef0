//! `session-testkit bench`

use std::time::Duration;

use super::{
    Ended, exit_code, output,
    progress::Bar,
    servers::Servers,
    values::{DAY, SECOND, count, duration},
};
use crate::bench::{self, Length, Settings};

/// Measures the same validations without the cache and with it, and judges each goal.
///
/// Goals: p99 below 5 ms for a hit and below 30 ms for a miss. Over 90 % hits once warm. At least
/// 70 % less latency on average than Postgres alone. Without named servers, the command starts its
/// own and stops them afterwards. On named servers it works in its own schema and key namespace,
/// which it removes. Exit code 0: all goals were reached. 1: a goal was missed. 2: could not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  session-testkit bench
  session-testkit bench --duration 30s --concurrency 16 --json
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
        value_parser = duration(SECOND, DAY)
    )]
    duration: Option<Duration>,

    /// The number of clients. Each sends its next request after the response to the last one.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count(10_000))]
    concurrency: u32,

    /// The number of sessions, which are validated in turn.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = count(1_000_000))]
    sessions: u32,

    /// Print one JSON document on standard output, and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Ended {
    let settings = Settings {
        length: arguments.duration.map_or(Length::Requests(arguments.requests), Length::Time),
        concurrency: arguments.concurrency,
        sessions: arguments.sessions,
    };
    let bar = Bar::new();
    bar.say("starting servers");
    let backends = arguments.servers.start().await?;
    let measured = bench::run(&backends, &settings, |progress| {
        bar.at(progress.what, progress.done, progress.total);
    });
    let report = measured.await?;
    bar.clear();
    if arguments.json {
        output::document(&report)?;
    } else {
        output::say(report.to_string().trim_end());
    }
    Ok(exit_code(report.ok))
}
