//! What happened in a run: the operations with their answers, and what was observed beside them. The
//! checker ([`invariants`](crate::invariants)) decides from this alone.
//!
//! All times are nanoseconds of one monotonic clock of the run, 0 at its start; spans are in
//! milliseconds. In memory it is a [`History`]; on disk it is JSON lines, version 1:
//!
//! ```text
//! {"header":{"version":1,"seed":7,"nodes":2,"parameters":{"d_ms":2000,"ttl_ms":300000,…}}}
//! {"op":{"node":0,"call":1000,"ret":2000,"do":{"create":{"session":1,"user":"u","data":"1.0","answer":"created"}}}}
//! {"op":{"node":1,"call":3000,"ret":4000,"do":{"validate":{"session":1,"answer":{"valid":{"user":"u","data":"1.0"}}}}}}
//! {"op":{"node":1,"call":5000,"ret":6000,"do":{"revoke":{"session":1,"answer":"propagated"}}}}
//! {"op":{"node":0,"call":7000,"dropped":7500,"do":{"validate":{"session":1}}}}
//! {"fault":{"name":"redis.kill","at":8000,"until":9000,"no_redis":true}}
//! {"end":{"at":10000,"due":4,"sent":4}}
//! ```
//!
//! The header is the first line; the order of the others is free. An operation has `ret` and `answer`
//! both, or neither: one without ends at infinity, for whatever it asked for may still happen. Sessions
//! are numbers, as are the tokens of one session (0 is the one that `create` gave out, a rotation gives
//! out the next): no raw token is ever written here. An unknown field or value is an error, not ignored,
//! so that a slip of the pen in a hand-written file can't turn into a green check; so a later version
//! with more fields has a higher number.

mod error;
mod file;
mod observed;
mod operation;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    error::{HistoryError, LineError},
    file::{Entry, HistoryWriter},
    observed::{End, Fault, InFlight, Place, Resource, Sample, Scan, Search, Touched},
    operation::{Change, Creation, Op, Operation},
};

/// The version of the format that this release writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// Nanoseconds of the run's one clock, 0 at its start.
pub type Nanos = u64;

/// A run as it was recorded. Each list is in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What the run was.
    pub header: Header,
    /// What was asked of the subject.
    pub operations: Vec<Operation>,
    /// What was broken on purpose.
    pub faults: Vec<Fault>,
    /// Comparisons of Redis with Postgres (R8).
    pub scans: Vec<Scan>,
    /// Samples of Postgres reads in flight (R10).
    pub in_flight: Vec<InFlight>,
    /// Samples of what a node holds on to (R11).
    pub samples: Vec<Sample>,
    /// Searches for raw tokens (R12).
    pub searches: Vec<Search>,
    /// The end of the run; `None` if it was cut short.
    pub end: Option<End>,
}

impl History {
    /// One in which nothing happened.
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

    /// Adds an entry to the list it belongs to.
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

/// The first line: what the run was, and the numbers that the promises are stated in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Of the format: [`VERSION`].
    pub version: u32,
    /// What replays the run's plan.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: u32,
    /// The numbers of the promises.
    pub parameters: Parameters,
    /// For people: what this history shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// For hand-written histories: what the checker must say, as in `R1 broken` or `R1 holds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

impl Header {
    /// A header with default parameters.
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

/// The numbers that the promises are stated in. Each defaults to session-layer's own, so a file may
/// leave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// D: how long a node in touch with Postgres may honour what was changed. Defaults to 2 s.
    #[serde(rename = "d_ms", with = "millis")]
    pub d: Duration,
    /// How long the cache may serve an entry. Defaults to 300 s.
    #[serde(rename = "ttl_ms", with = "millis")]
    pub ttl: Duration,
    /// How long a lease to fill lasts. Defaults to 2 s.
    #[serde(rename = "lease_ms", with = "millis")]
    pub lease: Duration,
    /// The documented skew of expiry. Defaults to 1 s.
    #[serde(rename = "skew_ms", with = "millis")]
    pub skew: Duration,
    /// How late a touch may be written, by which an idle timeout may come early. Defaults to 60 s.
    #[serde(rename = "touch_ms", with = "millis")]
    pub touch: Duration,
    /// How long a validation may take. Defaults to 250 ms.
    #[serde(rename = "budget_ms", with = "millis")]
    pub budget: Duration,
    /// What measuring may add to that on a busy machine. Defaults to 0.
    #[serde(rename = "budget_slack_ms", with = "millis")]
    pub budget_slack: Duration,
    /// How many reads of Postgres one node may have in flight; `None`: nothing was promised.
    pub bulkhead: Option<u64>,
    /// Redis is one server without replicas, and answers what removes a copy from it: then R2 holds at
    /// once where no fault touched Redis. Defaults to false.
    pub single_server: bool,
    /// How far memory may stay above its baseline after a fault, in bytes. Defaults to 16 MiB.
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
            memory_slack: 16 * 1024 * 1024,
        }
    }
}

/// A span as nanoseconds; 584 years and more are as good as for ever.
pub(crate) fn nanos(span: Duration) -> Nanos {
    Nanos::try_from(span.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Spans as whole milliseconds.
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

/// Rounded up: a promise is never made stricter by being written down.
pub(crate) fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
