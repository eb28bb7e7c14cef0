//! The command line. Exit code 0: all well; 1: a check failed or a promise was broken; 2: could not
//! run (bad arguments, no servers).

mod bench;
mod check;
mod interrupts;
mod progress;
mod run;
mod servers;
mod verify;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::backends::chain;

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
  session-testkit run -- cargo nextest run
  session-testkit verify
  session-testkit bench";

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Arguments),
    Check(check::Arguments),
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
        _ => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
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
            Command::Run(arguments) => run::main(arguments).await,
            Command::Verify(arguments) => verify::main(arguments).await,
        }
    })
}

fn could_not_run(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("session-testkit: {}", chain(error));
    ExitCode::from(COULD_NOT_RUN)
}
