//! The command line. Exit code 0: all well; 1: a check failed or a promise was broken; 2: could not
//! run (bad arguments, no servers).

mod bench;
mod check;
mod faults;
mod interrupts;
mod output;
mod progress;
mod run;
mod servers;
mod verify;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{backends::chain, observe::Logs};

/// Could not run.
const COULD_NOT_RUN: u8 = 2;

/// Real Redis and Postgres for tests of session caches: started, broken, looked at.
#[derive(Debug, Parser)]
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

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Arguments),
    Check(check::Arguments),
    Faults(faults::Arguments),
    Run(run::Arguments),
    Verify(verify::Arguments),
}

/// What `main` of the command does.
#[must_use]
pub fn main() -> ExitCode {
    // Bad arguments end the process here, with exit code 2.
    let cli = Cli::parse();
    // What is broken on purpose is no news.
    let level = match cli.command {
        Command::Verify(_) => "error",
        Command::Faults(_) | Command::Bench(_) => "warn,session_layer=error",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // Where secrets are looked for in what is logged, it is kept, whatever is shown of it.
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return could_not_run(&error),
    };
    runtime.block_on(async {
        match cli.command {
            Command::Bench(arguments) => bench::main(arguments).await,
            Command::Check(arguments) => check::main(arguments).await,
            Command::Faults(arguments) => {
                let faults = faults::main(arguments, kept.unwrap_or_default());
                interrupts::unless_interrupted(faults).await
            }
            Command::Run(arguments) => run::main(arguments).await,
            Command::Verify(arguments) => verify::main(arguments).await,
        }
    })
}

/// All that the libraries under test have to say, and what matters of the rest.
fn keep<S>(logs: Logs) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let libraries = ["session_layer", "sqlx", "redis", "deadpool"];
    let targets = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(libraries.map(|library| (library, LevelFilter::TRACE)));
    fmt::layer()
        .with_ansi(false)
        .with_writer(logs)
        .with_filter(targets)
}

fn could_not_run(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("session-testkit: {}", chain(error));
    ExitCode::from(COULD_NOT_RUN)
}
