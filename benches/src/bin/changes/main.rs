//! Measures the documentation's promises about changes by SQL and about revoke-all, on its own
//! servers and nodes.
//!
//! ```sh
//! cargo build -p session-testkit
//! session-testkit run -- cargo run --release -p session-benches --bin changes -- --quick
//! ```
//!
//! Each scenario prints one table in Markdown. The nodes validate sessions, and record when an
//! ended session was first invalid. SQL on other connections makes the changes.

mod deployment;
mod node;
mod observed;
mod observer;
mod plan;
mod scenarios;
mod sql;
mod table;

use std::{fmt, io::Write as _, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum as _};
use session_testkit::{backends::Backends, bench::Machine};

use self::{plan::Plan, scenarios::Scenario};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The exit code if a promise was broken.
const BROKEN: u8 = 1;
/// The exit code if the measurement failed.
const COULD_NOT_RUN: u8 = 2;
/// Postgres' default. The testkit's small segments reduce it to 64 MB, which would cause permanent
/// checkpoints.
const POSTGRES: [&str; 1] = ["max_wal_size=1GB"];
const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// Measures the cost of changes by SQL and of revoke-all, and how soon every node respects them.
///
/// Starts a Redis, a Postgres and two nodes, and stops them afterwards. Each scenario prints a
/// table in Markdown on standard output. Exit code 0: every promise held. 1: one was broken, such
/// as a session that was valid after the staleness bound. 2: the measurement failed. Without
/// --quick, all scenarios together take about ten minutes.
#[derive(Debug, Parser)]
#[command(
    name = "changes",
    after_help = "\
Examples:
  session-testkit run -- cargo run --release -p session-benches --bin changes -- --quick
  session-testkit run -- cargo run --release -p session-benches --bin changes -- --rate 1000 \
  --duration 30s rate
  SESSION_TESTKIT_BACKEND=native cargo run --release -p session-benches --bin changes -- --seed 7 \
  backlog open"
)]
struct Arguments {
    /// Measure about a fiftieth, as a test of the command.
    #[arg(long)]
    quick: bool,

    /// Seed of the sessions and of when each ends, to replay a run. Defaults to a random one, which
    /// is printed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// `rate`: changes due per second. May be repeated. Defaults to 1,000 and 5,000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Vec<u32>,

    /// `rate`: duration of the changes, from 1s to a day. Defaults to 60s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    /// Scenarios to measure. Defaults to all.
    #[arg(value_enum, value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let seconds = match text.strip_suffix('m') {
        Some(minutes) => minutes.parse().ok().and_then(|minutes: u64| minutes.checked_mul(MINUTE)),
        None => text.strip_suffix('s').and_then(|seconds| seconds.parse().ok()),
    };
    let seconds = seconds.filter(|seconds| (1..=DAY).contains(seconds));
    let expected = "a duration is a whole number with its unit, such as 30s or 5m, up to a day";
    seconds.map(Duration::from_secs).ok_or(expected)
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(BROKEN),
        Err(error) => {
            let mut reasons = format!("changes: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                reasons.push_str(&format!(": {error}"));
                source = error.source();
            }
            eprintln!("{reasons}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Runs the scenarios. Returns the number of broken promises.
async fn run(arguments: &Arguments) -> Result<usize, Error> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let mut plan = Plan::new(seed, arguments.quick);
    if !arguments.rate.is_empty() {
        plan.rates.clone_from(&arguments.rate);
    }
    plan.duration = arguments.duration.unwrap_or(plan.duration);
    let backends = Backends::builder().own().postgres_settings(POSTGRES).start().await?;
    let machine = Machine::of(&backends).await?;
    let settings = sql::settings(&backends).await?;
    say(format_args!("Seed {seed} (--seed {seed} replays it). {machine} ({settings}).\n"));
    let scenarios = match arguments.scenarios.as_slice() {
        [] => Scenario::value_variants(),
        some => some,
    };
    let mut broken = 0;
    for scenario in scenarios {
        let section = scenario.run(&backends, &plan).await?;
        let name = scenario.name();
        say(format_args!("## {name}\n\n{section}"));
        for what in &section.broken {
            eprintln!("changes: {name}: {what}");
        }
        broken += section.broken.len();
    }
    Ok(broken)
}

/// Prints on standard output. A closed reader (`| head`) is no error, because the exit code has the
/// outcome.
fn say(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Reports progress on standard error.
fn progress(what: impl fmt::Display) {
    eprintln!("changes: {what}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn duration_needs_a_unit_and_is_bounded() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        for bad in ["", "30", "s", "-1s", "1.5s", "0s", "2000m", "999999999999999999999m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
