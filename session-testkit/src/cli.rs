//! The command line. Exit code 0: all well; 1: a check failed or a promise was broken; 2: could not
//! run (bad arguments, no servers).

mod check;
mod interrupts;
mod run;
mod servers;

use std::process::ExitCode;

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
  session-testkit run -- cargo nextest run";

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Arguments),
    Run(run::Arguments),
}

/// What `main` of the command does.
#[must_use]
pub fn main() -> ExitCode {
    // Bad arguments end the process here, with exit code 2.
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
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
            Command::Check(arguments) => check::main(arguments).await,
            Command::Run(arguments) => run::main(arguments).await,
        }
    })
}

fn could_not_run(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("session-testkit: {}", chain(error));
    ExitCode::from(COULD_NOT_RUN)
}
