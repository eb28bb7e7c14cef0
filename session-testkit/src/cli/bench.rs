//! `session-testkit bench`

use std::{process::ExitCode, time::Duration};

use super::{
    could_not_run,
    interrupts::unless_interrupted,
    output,
    progress::Bar,
    servers::{Servers, not_there},
};
use crate::bench::{self, Length, Settings};

/// Measures what the cache is worth: the same validations without it and with it, with a verdict against each bar.
///
/// Bars: p99 below 5 ms for a hit and below 30 ms for a miss; over 90 % hits once warm; at least 70 % less latency on
/// average than Postgres alone. Without named servers it starts its own and stops them afterwards; on named ones it
/// works in a schema and key namespace of its own, which it removes. Exit code 0: all bars reached; 1: one was
/// missed; 2: could not run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  session-testkit bench
  session-testkit bench --secs 30 --concurrency 16 --json
  session-testkit bench --redis-url redis://cache.staging --database-url postgres://app@db.staging/app")]
pub(super) struct Arguments {
    #[command(flatten)]
    servers: Servers,

    /// How many requests of each side to measure.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,

    /// For how many seconds to measure each side, instead of a number of requests.
    #[arg(long, value_name = "N", conflicts_with = "requests", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    secs: Option<u64>,

    /// How many clients send requests, each its next one when it has its answer.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,

    /// How many sessions are validated in turn.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sessions: u32,

    /// Print one JSON document on standard output, and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    unless_interrupted(run(arguments)).await
}

async fn run(arguments: Arguments) -> ExitCode {
    let length = match arguments.secs {
        Some(secs) => Length::Time(Duration::from_secs(secs)),
        None => Length::Requests(arguments.requests),
    };
    let settings = Settings::default()
        .length(length)
        .concurrency(arguments.concurrency)
        .sessions(arguments.sessions);
    let bar = Bar::new();
    bar.say("getting servers");
    let backends = match arguments.servers.start().await {
        Ok(backends) => backends,
        Err(error) => return not_there(&error),
    };
    let measured = bench::run(&backends, &settings, |progress| {
        bar.at(progress.what, progress.done, progress.total);
    });
    let report = match measured.await {
        Ok(report) => report,
        Err(error) => return could_not_run(&error),
    };
    bar.clear();
    if !arguments.json {
        output::say(report.to_string().trim_end());
    } else if let Err(error) = output::document(&report) {
        return could_not_run(&error);
    }
    ExitCode::from(u8::from(!report.ok))
}
