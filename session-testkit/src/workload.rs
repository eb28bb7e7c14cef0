//! Load as an open loop: requests are due at a fixed rate, whatever the results of earlier ones.
//!
//! Latency counts from the time a request was *due*. A stall therefore shows in every request that
//! it delayed. A [`Plan`] lists what is sent, to which node and when. It is a pure function of the
//! [`Settings`] with their seed, so a seed replays it. The results and the interleaving depend on
//! the subject.
//!
//! [`Runner::run`] records every operation in a [`History`](crate::history::History). It causes and
//! heals the faults of the schedule, and summarizes each second in a [`Report`]. A [`Script`] runs
//! operations in a fixed order, to force a race.
//!
//! ```
//! # use session_testkit::subject::Subject;
//! # async fn example(my_cache: impl Subject) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use session_testkit::{invariants, workload::{Runner, Settings}};
//!
//! let mut settings = Settings::new(42);
//! settings.rate = 500;
//! settings.duration = Duration::from_secs(1);
//! let run = Runner::new(my_cache, settings).run().await?;
//! let verdicts = invariants::check(&run.history);
//! println!("{}\n{verdicts}", run.report);
//! # Ok(())
//! # }
//! ```

mod cancel;
mod latencies;
mod perform;
mod plan;
mod record;
mod report;
mod run;
mod scheduled;
mod script;
mod sessions;
mod settings;
mod tally;

pub(crate) use self::latencies::Latencies;
pub use self::{
    cancel::DropWhen,
    plan::{Action, Plan, Planned, TokenChoice},
    record::{Clock, Recorder},
    report::{Counts, Latency, Report, Second},
    run::{Run, Runner, WorkloadError},
    scheduled::{Break, Failure, Scheduled},
    script::{Issued, Script},
    sessions::{IssuedToken, Tokens},
    settings::{PER_MILLE, Settings, SettingsError, Shares},
    tally::Timed,
};

#[cfg(test)]
mod tests;
