//! Does session-layer do on these servers what it promises? Six stages, each with what was checked and
//! measured, and for each failure why and what to do.
//!
//! | stage | what is examined |
//! |---|---|
//! | connection | both servers, rights, tables ([`check`](crate::check)) |
//! | benchmark | a short [`bench`], against its bars |
//! | caching integration | miss, fill, hit; what is updated, rotated or revoked on one node is so on another |
//! | health endpoint | the document, field by field: healthy, with Redis down, healthy again |
//! | error handling | requests that carry garbage, garbage in Redis, nobody there to ask |
//! | fallback | requests while Redis is cut off, hangs, is killed or flushed: answered, none with 5xx |
//!
//! It drives session-layer in this process: two nodes, over real servers, in a schema and key namespace of
//! their own, which are removed afterwards. Servers that were started by us are killed and paused; on others
//! Redis is reached through a proxy that is cut, which hurts nobody else. FLUSHALL takes
//! [`allow_destructive`](crate::backends::BackendsBuilder::allow_destructive) there.
//!
//! Deadlines are ten times those of an application, so that all but the benchmark decide by what is answered
//! rather than by how busy this machine is.
//!
//! ```no_run
//! use session_testkit::{backends::Backends, verify};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = Backends::start().await?;
//! let report = verify::run(&servers, |progress| eprintln!("{progress}")).await;
//! assert!(report.ok, "{report}");
//! # Ok(())
//! # }
//! ```

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

pub use self::report::{Progress, Report, Stage, StageReport};
use self::{nodes::Nodes, report::Checks};
use crate::backends::Backends;

/// Takes the six stages, one after the other, and tells of each.
///
/// Where the tables can't be made, the others are skipped: there is nothing to validate.
pub async fn run(backends: &Backends, mut tell: impl FnMut(Progress<'_>)) -> Report {
    let begin = Instant::now();
    let sandbox = backends.sandbox();
    let nodes = Nodes::new(backends, &sandbox);
    let mut stages: Vec<StageReport> = Vec::new();
    for stage in Stage::ALL {
        tell(Progress::Begin(stage));
        let begin = Instant::now();
        let mut checks = Checks::new(backends, |step| tell(Progress::Step(step)));
        let mut measured = None;
        let nothing_to_validate = stages.first().is_some_and(|first| first.fatal);
        let outcome = match stage {
            _ if nothing_to_validate => Ok("there is nothing to validate".to_owned()),
            Stage::Connection => connection::run(&nodes, &mut checks).await,
            Stage::Benchmark => benchmark::run(&nodes, &mut checks, &mut measured).await,
            Stage::Caching => caching::run(&nodes, &mut checks).await,
            Stage::Health => health::run(&nodes, &mut checks).await,
            Stage::Errors => errors::run(&nodes, &mut checks).await,
            Stage::Fallback => fallback::run(&nodes, &mut checks).await,
        };
        let report = checks.end(stage, outcome, measured, begin.elapsed());
        tell(Progress::End(&report));
        stages.push(report);
    }
    Report::new(backends, stages, begin.elapsed())
}
