//! The command line.
//!
//! Exit code 0: all checks passed. 1: a check failed or a promise was broken. 2: could not run, for
//! example because of bad arguments or missing servers.

mod bench;
mod check;
mod faults;
mod interrupts;
mod output;
mod progress;
mod run;
mod servers;
mod values;
mod verify;

use std::{error::Error, io::IsTerminal as _, process::ExitCode};

use clap::{
    Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::interrupts::unless_interrupted;
use crate::{
    backends::{BackendError, chain},
    observe::Logs,
};

const COULD_NOT_RUN: u8 = 2;

type Failure = Box<dyn Error + Send + Sync>;

/// The end of a command. An error means that it could not run.
type Ended = Result<ExitCode, Failure>;

/// Starts real Redis and Postgres servers, breaks them and inspects them, to test session caches.
#[derive(Parser)]
#[command(name = "session-testkit", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  session-testkit check --redis-url redis://127.0.0.1 --database-url postgres://app@127.0.0.1/app
  session-testkit faults --fault redis-kill
  session-testkit run -- cargo nextest run
  session-testkit verify
  session-testkit bench";

// `Debug` is missing on purpose: the arguments contain URLs with passwords.
#[derive(Subcommand)]
enum Command {
    Bench(bench::Arguments),
    Check(check::Arguments),
    Faults(Box<faults::Arguments>),
    Run(run::Arguments),
    Verify(verify::Arguments),
}

/// Runs the command `session-testkit`.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return bad_arguments(error),
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
                Command::Check(arguments) => check::run(arguments).await,
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

/// Returns the exit code of a command that has judged.
fn exit_code(ok: bool) -> ExitCode {
    ExitCode::from(u8::from(!ok))
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

/// Prints why the arguments are bad, or the requested help. Omits a URL in the wrong place.
fn bad_arguments(mut error: clap::Error) -> ExitCode {
    let wrong =
        [ContextKind::InvalidArg, ContextKind::InvalidSubcommand, ContextKind::InvalidValue];
    for kind in wrong {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && output::may_be_url(text)
        {
            error.insert(kind, ContextValue::String(output::OMITTED.to_owned()));
        }
    }
    let _closed = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(COULD_NOT_RUN))
}

/// Prints why a command could not run, and what to do if a named server does not respond.
fn could_not_run(error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("session-testkit: {}", chain(error));
    if let Some(BackendError::NotReady { .. }) = error.downcast_ref() {
        eprintln!(
            "  → run `session-testkit check` with the same addresses (--redis-url, \
             --database-url) to see which step fails, and why"
        );
    }
    ExitCode::from(COULD_NOT_RUN)
}
