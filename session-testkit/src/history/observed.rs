//! Observations besides the operations: faults, scans and samples.

use serde::{Deserialize, Serialize};

use super::{LineError, Nanos};

/// An injected fault.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Fault {
    /// The name as in the schedule, such as `redis.kill`.
    pub name: String,
    /// The earliest time of an effect, just before the injection.
    pub at: Nanos,
    /// The time of the injection's return, from when on the fault was certainly active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Nanos>,
    /// The begin of healing. `None` if the fault was never healed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Nanos>,
    /// The end of healing, if that is later than `until`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed: Option<Nanos>,
    /// The affected nodes. Defaults to all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<u32>>,
    /// Whether those nodes get no row from Postgres, because it is unreachable or hides its rows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_postgres: bool,
    /// Whether Postgres may fail to record a touch although it can be read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_touch: bool,
    /// Whether Redis may lose those nodes' commands or fail to acknowledge them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_redis: bool,
    /// The effects, if they are counted. Without an effect, the verdict is inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched: Option<Touched>,
    /// The work of the affected nodes around its beginning that is no operation, if it is counted.
    /// Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub around: Option<Around>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Fault {
    /// Creates a fault that may affect all nodes from `at` on.
    #[must_use]
    pub fn new(name: impl Into<String>, at: Nanos) -> Self {
        Self { name: name.into(), at, ..Self::default() }
    }

    /// Returns whether the fault affects this node.
    pub fn affects(&self, node: u32) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.contains(&node))
    }

    /// Returns the longest span of possible effects.
    pub fn longest(&self) -> (Nanos, Nanos) {
        let healed = self.healed.or(self.until);
        (self.at, healed.unwrap_or(Nanos::MAX))
    }

    /// Returns the span in which the fault was certainly active. It is empty (it ends before it
    /// begins) if healing began before the injection returned.
    pub fn certain(&self) -> (Nanos, Nanos) {
        let since = self.since.unwrap_or(self.at);
        (since, self.until.unwrap_or(Nanos::MAX))
    }

    pub(super) fn check(&self, nodes: u32) -> Result<(), LineError> {
        let nowhere = self.nodes.iter().flatten().find(|node| **node >= nodes);
        if let Some(&node) = nowhere {
            return Err(LineError::NoSuchNode { node, nodes });
        }
        let times = [Some(self.at), self.since, self.until, self.healed];
        let known: Vec<Nanos> = times.into_iter().flatten().collect();
        if !known.is_sorted() || (self.healed.is_some() && self.until.is_none()) {
            return Err(LineError::EndsBeforeItBegins);
        }
        Ok(())
    }
}

/// The counted effects of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Touched {
    /// The number of connections.
    pub connections: u64,
    /// The number of bytes that the fault delayed, cut off or lost.
    pub bytes: u64,
}

impl Touched {
    /// Returns whether nothing was affected.
    pub fn nothing(self) -> bool {
        self == Self::default()
    }
}

/// The work of nodes around the beginning of a fault, from [`BEFORE`](Self::BEFORE) to
/// [`AFTER`](Self::AFTER).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Around {
    /// Validations that Redis alone served.
    pub hits: u64,
    /// Validations that a near cache served.
    pub near_hits: u64,
    /// Validations for which Redis had nothing to serve.
    pub misses: u64,
    /// Fills of Redis.
    pub fills: u64,
    /// Touches.
    pub touches: u64,
    /// Reads of the journal.
    pub journal_reads: u64,
}

impl Around {
    /// The time before the fault: one interval of the journal. A count rises when the work ends, so
    /// what a fault stops is not counted.
    pub const BEFORE: Nanos = 500_000_000;
    /// The time after the beginning: one interval of the journal.
    pub const AFTER: Nanos = 500_000_000;
}

/// A comparison of all of Redis' entries with Postgres' rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// The time when it began.
    pub at: Nanos,
    /// The number of compared entries.
    pub entries: u64,
    /// The sessions with an entry in Redis although Postgres has them as revoked.
    #[serde(default)]
    pub stale: Vec<u32>,
}

/// The number of Postgres reads that one node had in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InFlight {
    /// The time of the sample.
    pub at: Nanos,
    /// The node.
    pub node: u32,
    /// The number of reads. It is the maximum since the last sample if that is known.
    pub reads: u64,
}

/// A sample of a node's resource, which must return to its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The time of the sample.
    pub at: Nanos,
    /// The node.
    pub node: u32,
    /// The resource.
    pub of: Resource,
    /// The amount.
    pub value: u64,
}

/// A resource of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Connections of its pools.
    Pools,
    /// Tasks of its runtime.
    Tasks,
    /// Bytes of memory.
    Memory,
}

/// A search for issued raw tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The time of the search.
    pub at: Nanos,
    /// The searched place.
    pub place: Place,
    /// The number of searched bytes.
    pub bytes: u64,
    /// The sessions with a raw token in that place.
    #[serde(default)]
    pub found: Vec<u32>,
}

/// A place that must not contain a raw token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The logs.
    Logs,
    /// The scraped metrics.
    Metrics,
    /// All rows of Postgres.
    Postgres,
    /// All entries of Redis.
    Redis,
    /// The dump that Redis wrote to disk.
    RedisDump,
}

impl Place {
    /// All places.
    pub const ALL: [Self; 5] =
        [Self::Logs, Self::Metrics, Self::Postgres, Self::Redis, Self::RedisDump];
}

/// The end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The time of the last response, or of the end of waiting for it.
    pub at: Nanos,
    /// The number of due requests.
    pub due: u64,
    /// The number of sent requests among them.
    pub sent: u64,
}
