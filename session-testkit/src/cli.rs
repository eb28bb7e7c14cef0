//! The command line.
//!
//! Exit code 0: all checks passed. 1: a check failed or a promise was broken. 2: could not run, for
//! example because of bad arguments or missing servers.

mod bench;
mod faults;
mod run;
mod servers;
mod verify;

use std::{error::Error, io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand};
use session_tools::{
    COULD_NOT_RUN, Ended, Failure, exit_code, interrupts, interrupts::unless_interrupted, output,
    progress, values,
};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    backends::{BackendError, chain},
    observe::Logs,
};

/// Starts real Redis and Postgres servers, breaks them and inspects them, to test session caches.
#[derive(Parser)]
#[command(name = "session-testkit", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  session-testkit faults --fault redis-kill
  session-testkit run -- cargo nextest run
  session-testkit verify
  session-testkit bench";

// `Debug` is missing on purpose: the arguments contain URLs with passwords.
#[derive(Subcommand)]
enum Command {
    Bench(bench::Arguments),
    /// Moved to `sessionctl check`.
    #[command(hide = true)]
    Check {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        _arguments: Vec<String>,
    },
    Faults(Box<faults::Arguments>),
    Run(run::Arguments),
    Verify(verify::Arguments),
}

/// Runs the command `session-testkit`.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::bad_arguments(error),
    };
    // Warnings about servers that a command breaks on purpose are not shown.
    let level = match cli.command {
        Command::Verify(_) => "error",
        Command::Faults(_) | Command::Bench(_) => "warn,session_layer=error",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // `faults` searches the logs for secrets, therefore they are kept at every level.
    let kept = matches!(cli.command, Command::Faults(_)).then(Logs::default);
    tracing_subscriber::registry()
        .with(
            fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_filter(filter),
        )
        .with(kept.clone().map(keep))
        .init();
    let ended = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            match cli.command {
                Command::Bench(arguments) => unless_interrupted(bench::run(arguments)).await,
                Command::Check { .. } => {
                    eprintln!("session-testkit: this command is `sessionctl check` now");
                    Ok(ExitCode::from(COULD_NOT_RUN))
                }
                Command::Faults(arguments) => {
                    let logs = kept.unwrap_or_default();
                    unless_interrupted(faults::run(*arguments, logs)).await
                }
                Command::Run(arguments) => run::run(arguments).await,
                Command::Verify(arguments) => unless_interrupted(verify::run(arguments)).await,
            }
        })
    });
    ended.unwrap_or_else(|error| could_not_run(&*error))
}

/// Returns a layer that keeps every event of the libraries under test, and INFO of the rest.
fn keep<S>(logs: Logs) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let libraries = ["session_layer", "sqlx", "redis", "deadpool"];
    let targets = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(libraries.map(|library| (library, LevelFilter::TRACE)));
    fmt::layer().with_ansi(false).with_writer(logs).with_filter(targets)
}

/// Prints why a command could not run, and what to do if a named server does not respond.
fn could_not_run(error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("session-testkit: {}", chain(error));
    if let Some(BackendError::NotReady { .. }) = error.downcast_ref() {
        eprintln!(
            "  → run `sessionctl check` with the same addresses (--redis-url, \
             --database-url) to see which step fails, and why"
        );
    }
    ExitCode::from(COULD_NOT_RUN)
}
