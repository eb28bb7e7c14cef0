//! An examination in six stages of whether session-layer keeps its promises on these servers. Each
//! stage reports its checks and measurements. Each failure has a cause and a remedy.
//!
//! | stage | what is examined |
//! |---|---|
//! | connection | both servers, rights, tables ([`check`](crate::check)) |
//! | benchmark | a short [`bench`], against its goals |
//! | caching integration | miss, fill, hit, and the effect of each change on another node |
//! | health endpoint | 24 fields of the document: healthy, with Redis down, healthy again |
//! | error handling | garbage in requests, garbage in Redis, and both servers unreachable |
//! | fallback | requests without 5xx while Redis is cut off, hangs, is killed or flushed |
//!
//! Two nodes of session-layer run in this process on real servers. Their schema and key namespace
//! are new, and are removed afterwards. Servers that we started are killed and paused. On given
//! servers, a proxy to Redis is cut, which affects no other client. FLUSHALL needs
//! [`allow_destructive`](crate::backends::BackendsBuilder::allow_destructive) there.
//!
//! Deadlines are ten times those of an application. Therefore all stages except the benchmark judge
//! the responses, not the speed of this machine.

mod benchmark;
mod caching;
mod connection;
mod document;
mod errors;
mod fallback;
mod health;
mod judge;
mod nodes;
mod report;

use tokio::time::Instant;

use self::nodes::Nodes;
pub(crate) use self::report::{Progress, Report, Stage, StageReport};
use crate::backends::Backends;
use session_tools::check::{Finding, Steps};

/// Runs the six stages one after the other and reports each.
///
/// If the tables can't be created, the other stages are skipped, because nothing can be validated.
pub(crate) async fn run(backends: &Backends, mut notify: impl FnMut(Progress<'_>)) -> Report {
    let begin = Instant::now();
    let sandbox = backends.sandbox();
    let nodes = Nodes::new(backends, &sandbox);
    let mut stages: Vec<StageReport> = Vec::new();
    for stage in Stage::ALL {
        notify(Progress::Begin(stage));
        let begin = Instant::now();
        let mut report_step = |step: &Finding| notify(Progress::Step(step));
        let mut checks = Steps::new(&mut report_step);
        let mut measured = None;
        let nothing_to_validate = stages.first().is_some_and(|first| first.fatal);
        let outcome = match stage {
            _ if nothing_to_validate => Ok("the tables are missing".to_owned()),
            Stage::Connection => connection::run(&nodes, &mut checks).await,
            Stage::Benchmark => benchmark::run(&nodes, &mut checks, &mut measured).await,
            Stage::Caching => caching::run(&nodes, &mut checks).await,
            Stage::Health => health::run(&nodes, &mut checks).await,
            Stage::Errors => errors::run(&nodes, &mut checks).await,
            Stage::Fallback => fallback::run(&nodes, &mut checks).await,
        };
        let report = StageReport::new(stage, checks, outcome, measured, begin.elapsed());
        notify(Progress::End(&report));
        stages.push(report);
    }
    Report::new(backends, stages, begin.elapsed())
}
