//! What is observed beside the operations: faults, and what some invariants are about.

use serde::{Deserialize, Serialize};

use super::{LineError, Nanos};

/// Something that was broken on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Fault {
    /// As in the schedule: `redis.kill`.
    pub name: String,
    /// From when on it may have been felt: just before it was caused.
    pub at: Nanos,
    /// From when on it was in force for certain, if that is later than `at`: causing it had returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Nanos>,
    /// When healing began; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Nanos>,
    /// When it was healed for certain, if that is later than `until`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed: Option<Nanos>,
    /// The nodes that feel it. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<u32>>,
    /// Those nodes get no positive answer from Postgres: it is cut off, or hides its rows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_postgres: bool,
    /// The use of a session may not be noted in Postgres, though it can be read there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_touch: bool,
    /// Redis may lose, or not acknowledge, what those nodes ask of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_redis: bool,
    /// What it touched, where that can be counted. Nothing: the verdict is inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched: Option<Touched>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Fault {
    /// One that may be felt by all from `at` on, and of which nothing else is known yet.
    #[must_use]
    pub fn new(name: impl Into<String>, at: Nanos) -> Self {
        Self {
            name: name.into(),
            at,
            since: None,
            until: None,
            healed: None,
            nodes: None,
            no_postgres: false,
            no_touch: false,
            no_redis: false,
            touched: None,
        }
    }

    /// Does this node feel it?
    #[must_use]
    pub fn is_felt_by(&self, node: u32) -> bool {
        self.nodes
            .as_ref()
            .is_none_or(|nodes| nodes.contains(&node))
    }

    /// The longest span in which it may have been felt.
    #[must_use]
    pub fn longest(&self) -> (Nanos, Nanos) {
        let healed = self.healed.or(self.until);
        (self.at, healed.unwrap_or(Nanos::MAX))
    }

    /// The span in which it was in force for certain. Empty (it ends before it begins) where healing
    /// began before it was.
    #[must_use]
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

/// What a fault touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Touched {
    /// Connections.
    pub connections: u64,
    /// Bytes that it held up, cut off or lost.
    pub bytes: u64,
}

impl Touched {
    /// Nothing at all?
    #[must_use]
    pub fn nothing(self) -> bool {
        self == Self::default()
    }
}

/// A comparison of all of Redis' entries with Postgres' rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// When it began.
    pub at: Nanos,
    /// How many entries were compared.
    pub entries: u64,
    /// The sessions of which Redis says valid and Postgres revoked.
    #[serde(default)]
    pub stale: Vec<u32>,
}

/// How many reads of Postgres one node had in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InFlight {
    /// When.
    pub at: Nanos,
    /// On which node.
    pub node: u32,
    /// How many; the most since the last sample, where that is known.
    pub reads: u64,
}

/// How much a node holds of something that must go back to its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// When.
    pub at: Nanos,
    /// On which node.
    pub node: u32,
    /// Of what.
    pub of: Resource,
    /// How much.
    pub value: u64,
}

/// What a node holds on to.
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

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pools, Self::Tasks, Self::Memory];
}

/// A search for the raw tokens that were given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// When.
    pub at: Nanos,
    /// Where.
    pub place: Place,
    /// How many bytes were looked through.
    pub bytes: u64,
    /// The sessions of which a raw token was found.
    #[serde(default)]
    pub found: Vec<u32>,
}

/// Where no raw token may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// What was logged.
    Logs,
    /// What is scraped.
    Metrics,
    /// All rows.
    Postgres,
    /// All entries.
    Redis,
    /// What Redis wrote to disk.
    RedisDump,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Logs,
        Self::Metrics,
        Self::Postgres,
        Self::Redis,
        Self::RedisDump,
    ];
}

/// The end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// When the last answer had come or was waited for no longer.
    pub at: Nanos,
    /// How many requests were due.
    pub due: u64,
    /// How many of those were sent.
    pub sent: u64,
}
