//! Measures the documentation's promises about changes by SQL and about revoke-all, on its own
//! servers and nodes.
//!
//! ```sh
//! cargo build -p session-testkit
//! session-testkit run -- cargo run --release -p session-benches --bin changes -- --quick
//! ```
//!
//! Each scenario prints one table in Markdown. The nodes are separate processes, because their
//! memory is measured too. They validate sessions, and report when an ended session was first
//! invalid. The measuring process makes the changes. Pure functions of the figures judge them
//! (`plan.rs`, `observed.rs`).

mod deployment;
mod error;
mod interrupts;
mod memory;
mod moment;
mod names;
mod node;
mod observed;
mod observer;
mod plan;
mod process;
mod protocol;
mod scenarios;
mod sql;
mod table;

use std::{fmt, io::Write as _, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum as _};
use session_testkit::{backends::Backends, bench::Machine};
use tokio::runtime::Runtime;

use self::{
    error::{Chain, Doing as _, Error},
    interrupts::unless_interrupted,
    plan::Plan,
    scenarios::Scenario,
};

/// The exit code if a promise was broken.
const BROKEN: u8 = 1;
/// The exit code if the measurement failed.
const COULD_NOT_RUN: u8 = 2;
/// Postgres' default. The testkit's small segments reduce it to 64 MB, which would cause permanent
/// checkpoints.
const POSTGRES: [&str; 1] = ["max_wal_size=1GB"];
/// The argument that makes a process a node.
const NODE_ARGUMENT: &str = "--node";

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
  --secs 60 rate
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

    /// `rate`: duration of the changes in seconds. Defaults to 60.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    secs: Option<u32>,

    /// Run as a node.
    #[arg(long, hide = true)]
    node: bool,

    /// Scenarios to measure. Defaults to all.
    #[arg(value_enum, value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return could_not_run(&Error::because("start the runtime", error)),
    };
    if arguments.node {
        return match runtime.block_on(process::main()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => could_not_run(&error),
        };
    }
    let run = async {
        match run(&arguments).await {
            Ok(code) => code,
            Err(error) => could_not_run(&error),
        }
    };
    let code = runtime.block_on(unless_interrupted(run));
    code.unwrap_or_else(|error| could_not_run(&Error::because("receive signals", error)))
}

async fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let mut plan = Plan::new(seed, arguments.quick);
    if !arguments.rate.is_empty() {
        plan.rates.clone_from(&arguments.rate);
    }
    if let Some(secs) = arguments.secs {
        plan.span = Duration::from_secs(secs.into());
    }
    let backends = Backends::builder().own().postgres_settings(POSTGRES).start().await;
    let backends = backends.doing(|| "start a Redis and a Postgres")?;
    let machine = Machine::of(&backends).await;
    let machine = machine.doing(|| "ask the servers for their versions")?;
    let settings = sql::settings(&backends).await?;
    say(format_args!("Seed {seed}. {machine} ({settings}).\n"));
    let scenarios = match arguments.scenarios.as_slice() {
        [] => Scenario::value_variants(),
        some => some,
    };
    let mut broken = 0;
    for scenario in scenarios {
        let section = scenario.run(&backends, &plan).await?;
        let replay = replay(arguments, seed, *scenario);
        say(format_args!("## {}\n\n```sh\n{replay}\n```\n\n{section}", scenario.name()));
        for what in &section.broken {
            eprintln!("changes: {}: {what}", scenario.name());
        }
        broken += section.broken.len();
    }
    Ok(match broken {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(BROKEN),
    })
}

/// Returns the command that measures this scenario again.
fn replay(arguments: &Arguments, seed: u64, scenario: Scenario) -> String {
    let mut command = "session-testkit run -- cargo run".to_owned();
    if !cfg!(debug_assertions) {
        command.push_str(" --release");
    }
    command.push_str(" -p session-benches --bin changes --");
    if arguments.quick {
        command.push_str(" --quick");
    }
    command.push_str(&format!(" --seed {seed}"));
    if scenario == Scenario::Rate {
        for rate in &arguments.rate {
            command.push_str(&format!(" --rate {rate}"));
        }
        if let Some(secs) = arguments.secs {
            command.push_str(&format!(" --secs {secs}"));
        }
    }
    format!("{command} {}", scenario.name())
}

/// Prints on standard output. A closed reader (`| head`) is no error, because the exit code has the
/// outcome.
fn say(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn could_not_run(error: &Error) -> ExitCode {
    eprintln!("changes: {}", Chain(error));
    ExitCode::from(COULD_NOT_RUN)
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
    fn replay_command_measures_the_same() {
        let line = ["changes", "--quick", "--rate", "9", "--secs", "7", "rate", "open"];
        let arguments = Arguments::parse_from(line);
        let rate = replay(&arguments, 5, Scenario::Rate);
        assert!(rate.ends_with("-- --quick --seed 5 --rate 9 --secs 7 rate"), "{rate}");
        let open = replay(&arguments, 5, Scenario::Open);
        assert!(open.ends_with("-- --quick --seed 5 open"), "{open}");
        for command in [rate, open] {
            let arguments = command.rsplit(" -- ").next().unwrap_or_default();
            let arguments = std::iter::once("changes").chain(arguments.split(' '));
            let again = Arguments::parse_from(arguments);
            assert_eq!((again.quick, again.seed), (true, Some(5)));
        }
    }
}
