//! `session-testkit verify`

use std::process::ExitCode;

use super::{
    could_not_run,
    interrupts::unless_interrupted,
    output,
    progress::Bar,
    servers::{Servers, not_ready},
};
use crate::verify::{self, Progress, Stage};

/// Verifies that session-layer keeps its promises on these servers, in six stages: connection,
/// benchmark, caching integration, health endpoint, error handling, fallback.
///
/// Without named servers, the command starts its own, kills and pauses them, and stops them
/// afterwards. On named servers it works in its own schema and key namespace, which it removes. It
/// reaches Redis through a proxy that it cuts, and only FLUSHALL needs --destructive. Exit code 0:
/// all stages passed. 1: a stage failed. 2: could not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  session-testkit verify
  session-testkit verify --redis-url redis://cache.staging --database-url \
  postgres://app@db.staging/app --json")]
pub(super) struct Arguments {
    #[command(flatten)]
    servers: Servers,

    /// Print one JSON document with every step on standard output, and the stages on standard
    /// error.
    #[arg(long)]
    json: bool,
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    unless_interrupted(run(arguments)).await
}

async fn run(arguments: Arguments) -> ExitCode {
    let bar = Bar::new();
    bar.say("starting servers");
    let backends = match arguments.servers.start().await {
        Ok(backends) => backends,
        Err(error) => return not_ready(&error),
    };
    let mut stage = Stage::Connection;
    let at = |now: &str, stage: Stage| {
        let all = u32::try_from(Stage::ALL.len()).unwrap_or(u32::MAX);
        bar.at(now, stage.number() - 1, all);
    };
    let report = verify::run(&backends, |progress| match progress {
        Progress::Begin(begins) => {
            stage = begins;
            at(stage.title(), stage);
        }
        Progress::Step(step) => at(&format!("{}: {}", stage.title(), step.step), stage),
        Progress::End(report) => bar.above(|| output::tell(arguments.json, report)),
    })
    .await;
    bar.clear();
    if arguments.json
        && let Err(error) = output::document(&report)
    {
        return could_not_run(&error);
    }
    output::tell(arguments.json, format_args!("\n{}", report.summary()));
    ExitCode::from(u8::from(!report.ok))
}
