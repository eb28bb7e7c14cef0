//! `sessionctl`, the operator's tool for deployments of session-layer.
//!
//! Exit code 0: all well. 1: a check failed, or a change could not be completed. 2: could not run,
//! for example because of bad arguments or missing servers.

mod check;
mod migrate;
#[cfg(feature = "report")]
mod report;
mod servers;
mod sessions;
mod watch;

use std::{error::Error, io::IsTerminal as _, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use session_tools::{
    COULD_NOT_RUN, Failure, chain, interrupts::unless_interrupted, output,
    values::without_empty_variables,
};
use tracing_subscriber::EnvFilter;

/// Checks and operates a deployment of session-layer.
///
/// Every command reads --redis-url and --database-url, and otherwise the application's environment
/// (`REDIS_URL`, `DATABASE_URL`, `SESSION_…`). Run it with the application's environment. `report`
/// asks for --yes then, because it makes load.
#[derive(Parser)]
#[command(name = "sessionctl", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sessionctl check --redis-url redis://127.0.0.1 --database-url postgres://app@127.0.0.1/app
  sessionctl sessions list --user alice
  sessionctl revoke --all --reason 'key leaked'
  sessionctl migrate --plan
  sessionctl watch --node http://127.0.0.1:3000/api/health/redis";

// `Debug` is missing on purpose: the arguments contain URLs with passwords.
#[derive(Subcommand)]
enum Command {
    Check(check::Arguments),
    Erase(sessions::Erase),
    Migrate(migrate::Arguments),
    #[cfg(feature = "report")]
    Report(report::Arguments),
    Revoke(sessions::Revoke),
    Sessions(sessions::Arguments),
    Watch(watch::Arguments),
}

fn main() -> ExitCode {
    let matches = without_empty_variables(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return output::bad_arguments(error),
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let ended = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(unless_interrupted(async {
            match cli.command {
                Command::Check(arguments) => check::run(arguments).await,
                Command::Erase(arguments) => arguments.run().await,
                Command::Migrate(arguments) => migrate::run(arguments).await,
                #[cfg(feature = "report")]
                Command::Report(arguments) => report::run(arguments).await,
                Command::Revoke(arguments) => arguments.run().await,
                Command::Sessions(arguments) => sessions::run(arguments).await,
                Command::Watch(arguments) => watch::run(arguments).await,
            }
        }))
    });
    ended.unwrap_or_else(|error| could_not_run(&*error))
}

/// Prints why a command could not run.
fn could_not_run(error: &(dyn Error + 'static)) -> ExitCode {
    output::complain(format_args!("sessionctl: {}", chain(error)));
    ExitCode::from(COULD_NOT_RUN)
}
