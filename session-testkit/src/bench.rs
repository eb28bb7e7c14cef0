//! What the cache is worth: the same validations without it and with it, on the same servers, and a
//! verdict against each [`Bar`].
//!
//! A request goes through [`SessionCacheLayer`](session_layer::SessionCacheLayer) and is timed from when
//! it is sent to when its answer is there. The loop is closed: a fixed number of clients, each of which
//! sends its next request when it has the answer to the last. That measures what a validation takes and
//! what the whole can do; what a stall does to requests that are due regardless is for an open loop
//! ([`workload`](crate::workload)) to show.
//!
//! 1. Warm-up, not counted: connections open, plans are made.
//! 2. Each session once, of which the cache knows nothing yet: the misses.
//! 3. All sessions in turn, without the cache and with it, in [`ROUNDS`] rounds that alternate, so that
//!    whatever else this machine does hurts both sides.
//!
//! ```no_run
//! use session_testkit::{backends::Backends, bench::{self, Settings}};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = Backends::start().await?;
//! let report = bench::run(&servers, &Settings::default(), |_progress| {}).await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```

mod judge;
mod load;
mod machine;
mod report;
mod run;

use std::time::Duration;

use serde::Serialize;

pub use self::{
    judge::{Bar, Figures, Verdict, judge},
    machine::Machine,
    report::{Improvement, Report},
    run::{BenchError, Progress, run},
};

/// In how many rounds each side is measured.
pub const ROUNDS: u32 = 5;

/// How much is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Settings {
    /// How much of each side. Defaults to 10,000 requests.
    #[serde(flatten)]
    pub length: Length,
    /// How many clients there are. Defaults to 4: enough to overlap, too few to queue up behind each
    /// other on a small machine, where latency would say how many they are.
    pub concurrency: u32,
    /// How many sessions are validated in turn; also how many misses are measured. Defaults to 1,000.
    pub sessions: u32,
}

/// How much of each side is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Length {
    /// This many requests.
    Requests(u32),
    /// For so long.
    #[serde(rename = "secs", serialize_with = "seconds")]
    Time(Duration),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            length: Length::Requests(10_000),
            concurrency: 4,
            sessions: 1_000,
        }
    }
}

impl Settings {
    /// Sets how much of each side is measured.
    #[must_use]
    pub fn length(mut self, length: Length) -> Self {
        self.length = length;
        self
    }

    /// Sets how many clients there are; 0 is taken for 1.
    #[must_use]
    pub fn concurrency(mut self, clients: u32) -> Self {
        self.concurrency = clients.max(1);
        self
    }

    /// Sets how many sessions there are; 0 is taken for 1.
    #[must_use]
    pub fn sessions(mut self, sessions: u32) -> Self {
        self.sessions = sessions.max(1);
        self
    }
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
