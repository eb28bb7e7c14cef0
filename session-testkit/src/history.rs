//! The recorded history of a run: operations with their responses, faults and other observations.
//! The checker ([`invariants`](crate::invariants)) decides from this alone.
//!
//! All times are nanoseconds of one monotonic clock of the run, which starts at 0. Durations are in
//! milliseconds. The history is a [`History`] in memory, and JSON lines of version 2 on disk:
//!
//! ```text
//! {"header":{"version":2,"seed":7,"nodes":2,"parameters":{"d_ms":2000,"ttl_ms":300000,…}}}
//! {"op":{"node":0,"call":1000,"ret":2000,"do":{"create":{"session":1,…,"answer":"created"}}}}
//! {"op":{"node":1,"call":3000,"ret":4000,"do":{"validate":{"session":1,"answer":{"valid":…}}}}}
//! {"op":{"node":1,"call":5000,"ret":6000,"do":{"revoke":{"session":1,"answer":"propagated"}}}}
//! {"op":{"node":0,"call":7000,"dropped":7500,"do":{"validate":{"session":1}}}}
//! {"fault":{"name":"redis.kill","at":8000,"until":9000,"no_redis":true}}
//! {"end":{"at":10000,"due":4,"sent":4}}
//! ```
//!
//! The header is the first line. The order of the other lines is free. An operation has both `ret`
//! and `answer`, or neither. Without them it ends at infinity, because its effect may still happen.
//! Sessions are numbers, and so are the tokens of a session. Token 0 is the one that `create`
//! issued, and a rotation issues the next. No raw token is written here.
//!
//! An unknown field or value is an error, because a typing error in a manually written file could
//! otherwise produce a false pass. Therefore a later version with more fields has a higher number.
//! Version 2 added `around` to a fault. Version 1 is read too, with that field as an error.

mod error;
mod file;
mod observed;
mod operation;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    error::{HistoryError, LineError},
    file::Entry,
    observed::{Around, End, Fault, InFlight, Place, Resource, Sample, Scan, Search, Touched},
    operation::{Change, Creation, Op, Operation},
};

/// The version of the format that this release writes. It reads this one and all before it.
pub const VERSION: u32 = 2;

/// The limit for the number of nodes in a file. The checker has state for each node.
pub const MAX_NODES: u32 = 256;

/// A time in nanoseconds of the run's clock, which starts at 0.
pub type Nanos = u64;

/// A recorded run. Each list has the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The description of the run.
    pub header: Header,
    /// The operations.
    pub operations: Vec<Operation>,
    /// The injected faults.
    pub faults: Vec<Fault>,
    /// Comparisons of Redis with Postgres (R8).
    pub scans: Vec<Scan>,
    /// Samples of Postgres reads in flight (R10).
    pub in_flight: Vec<InFlight>,
    /// Samples of a node's resources (R11).
    pub samples: Vec<Sample>,
    /// Searches for raw tokens (R12).
    pub searches: Vec<Search>,
    /// The end of the run. `None` if the run was interrupted.
    pub end: Option<End>,
}

impl History {
    /// Creates an empty history.
    #[must_use]
    pub fn new(header: Header) -> Self {
        Self {
            header,
            operations: Vec::new(),
            faults: Vec::new(),
            scans: Vec::new(),
            in_flight: Vec::new(),
            samples: Vec::new(),
            searches: Vec::new(),
            end: None,
        }
    }

    /// Adds an entry to its list.
    pub fn push(&mut self, entry: Entry) {
        match entry {
            Entry::Op(operation) => self.operations.push(operation),
            Entry::Fault(fault) => self.faults.push(fault),
            Entry::Scan(scan) => self.scans.push(scan),
            Entry::InFlight(in_flight) => self.in_flight.push(in_flight),
            Entry::Sample(sample) => self.samples.push(sample),
            Entry::Search(search) => self.searches.push(search),
            Entry::End(end) => self.end = Some(end),
        }
    }
}

/// The first line: a description of the run and the parameters of the promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the format: [`VERSION`], whatever version was read.
    pub version: u32,
    /// The seed that replays the run's plan.
    pub seed: u64,
    /// The number of nodes, at most [`MAX_NODES`] in a file.
    pub nodes: u32,
    /// The parameters of the promises.
    pub parameters: Parameters,
    /// A description of this history for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The expected verdict of a manually written history, such as `R1 broken` or `R1 holds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

impl Header {
    /// Creates a header with default parameters.
    #[must_use]
    pub fn new(seed: u64, nodes: u32) -> Self {
        Self {
            version: VERSION,
            seed,
            nodes,
            parameters: Parameters::default(),
            about: None,
            expect: None,
        }
    }
}

/// The parameters of the promises. Each defaults to session-layer's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// The staleness bound D. Defaults to 2 s.
    #[serde(rename = "d_ms", with = "millis")]
    pub d: Duration,
    /// The TTL of an entry. Defaults to 300 s.
    #[serde(rename = "ttl_ms", with = "millis")]
    pub ttl: Duration,
    /// The duration of a lease. Defaults to 2 s.
    #[serde(rename = "lease_ms", with = "millis")]
    pub lease: Duration,
    /// The documented tolerance of an expiry. Defaults to 1 s.
    #[serde(rename = "skew_ms", with = "millis")]
    pub skew: Duration,
    /// The maximum delay of a touch, by which an idle timeout may come early. Defaults to 60 s.
    #[serde(rename = "touch_ms", with = "millis")]
    pub touch: Duration,
    /// The time limit of a validation. Defaults to 250 ms.
    #[serde(rename = "budget_ms", with = "millis")]
    pub budget: Duration,
    /// The measuring error of a busy machine, which is added to the budget. Defaults to 0.
    #[serde(rename = "budget_slack_ms", with = "millis")]
    pub budget_slack: Duration,
    /// The limit for Postgres reads in flight on one node. `None` if there is no limit.
    pub bulkhead: Option<u64>,
    /// Whether Redis is one server without replicas that acknowledges removals. R2 then holds at
    /// once if no fault affected Redis. Defaults to false.
    pub single_server: bool,
    /// Whether nodes keep entries of their own in front of Redis. R2 then holds at once on one node
    /// only. Defaults to false.
    pub near_caches: bool,
    /// The permitted rise of memory after a fault, in bytes. Defaults to 16 MiB.
    pub memory_slack: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            d: Duration::from_secs(2),
            ttl: Duration::from_secs(300),
            lease: Duration::from_secs(2),
            skew: Duration::from_secs(1),
            touch: Duration::from_secs(60),
            budget: Duration::from_millis(250),
            budget_slack: Duration::ZERO,
            bulkhead: None,
            single_server: false,
            near_caches: false,
            memory_slack: 16 * 1024 * 1024,
        }
    }
}

/// Converts a duration to nanoseconds. The limit is 584 years.
pub(crate) fn nanos(span: Duration) -> Nanos {
    Nanos::try_from(span.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Serialization of durations as whole milliseconds.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        super::whole_millis(*span).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// Rounds up to milliseconds, because a recorded promise must not be stricter than the original.
pub(crate) fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
