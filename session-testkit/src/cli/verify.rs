//! `session-testkit verify`

use super::{Ended, exit_code, output, progress::Bar, servers::Servers};
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

pub(super) async fn run(arguments: Arguments) -> Ended {
    let bar = Bar::new();
    bar.say("starting servers");
    let backends = arguments.servers.start().await?;
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
    if arguments.json {
        output::document(&report)?;
    }
    output::tell(arguments.json, format_args!("\n{}", report.summary()));
    Ok(exit_code(report.ok))
}
