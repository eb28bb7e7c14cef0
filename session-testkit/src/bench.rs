//! A comparison of the same validations without the cache and with it, on the same servers, with a
//! verdict against each goal.
//!
//! A request goes through [`SessionCacheLayer`](session_layer::SessionCacheLayer). Its time runs
//! from the call to the response. The loop is closed: each of a fixed number of clients sends its
//! next request after the response to the last. This measures the latency of a validation and the
//! throughput. An open loop ([`workload`](crate::workload), and the search of `--find-limit`) shows
//! the effect of a stall on requests that are due regardless.
//!
//! 1. A warm-up, which is not counted, opens connections and prepares plans.
//! 2. Each session is validated once before it is in the cache. These are the misses.
//! 3. All sessions are validated in turn, without the cache and with it, in alternating rounds.
//!    Other work on this machine then affects both sides.

mod judge;
pub(crate) mod limit;
mod load;
mod machine;
mod report;
pub(crate) mod run;

use std::time::Duration;

use serde::Serialize;

pub use self::machine::Machine;
pub(crate) use self::{
    judge::{Bar, Figures, Verdict, judge},
    load::{Until, drive},
    report::Report,
    run::{Progress, run},
};

/// The number of rounds per side.
pub(crate) const ROUNDS: u32 = 5;

/// The amount of requests to measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Settings {
    /// The length of each side. Defaults to 10,000 requests.
    #[serde(flatten)]
    pub(crate) length: Length,
    /// The number of clients, at least 1. Defaults to 4. They overlap, but do not queue behind each
    /// other on a small machine, where latency would only reflect their number.
    pub(crate) concurrency: u32,
    /// The number of sessions, which is also the number of misses, at least 1. Defaults to 1,000.
    pub(crate) sessions: u32,
}

/// The length of the measurement of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Length {
    Requests(u32),
    #[serde(rename = "secs", serialize_with = "seconds")]
    Time(Duration),
}

impl Default for Settings {
    fn default() -> Self {
        Self { length: Length::Requests(10_000), concurrency: 4, sessions: 1_000 }
    }
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
