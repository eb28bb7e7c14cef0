//! The messages between the measuring process and a node's process: JSON, one per line.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{moment::Moment, names::Who};

/// The first line that a node reads. It has no `Debug`, because it contains URLs.
#[derive(Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) database_url: String,
    pub(crate) redis_url: String,
    pub(crate) schema: String,
    pub(crate) namespace: String,
    pub(crate) seed: u64,
    /// The interval at which an ended session is validated.
    pub(crate) poll: Duration,
    /// The number of sessions that stay valid.
    pub(crate) kept: u64,
}

/// An order to a node. There is one order with a reply at a time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Validate these sessions a few times, so that Redis has entries of them.
    Warm(Vec<Who>),
    /// Validate this session repeatedly until it is invalid, and report that.
    Watch(Who),
    /// The end of this session was committed, or its revocation returned.
    Ended(Who, Bounds),
    /// Restart the figures of the report.
    Mark,
    /// Reply with D.
    StalenessBound,
    /// Reply when an entry has been served from Redis.
    FirstHit,
    /// Reply when a read of the journal that began later than this has succeeded.
    CatchUp(Moment),
    /// Revoke all sessions of this user, and reply with the result.
    RevokeAll(String),
    /// Validate all sessions again that were reported as invalid, and reply with how many are
    /// valid.
    Recheck,
    /// Reply with the figures since the mark.
    Report,
}

/// The time from which a session must not be accepted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// The time when the COMMIT or the revocation returned.
    pub(crate) at: Moment,
    /// The time after that in which a connected node may still accept the session.
    pub(crate) within: Duration,
    /// D: a node whose journal is older than that is cut off from Postgres.
    pub(crate) staleness_bound: Duration,
}

/// A message of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromNode {
    /// A watched session is invalid.
    Invalid(Invalid),
    /// The reply to an order.
    Reply(Reply),
}

/// A watched session that is invalid.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Invalid {
    pub(crate) who: Who,
    /// The time of the first validation that returned Invalid.
    pub(crate) at: Moment,
}

/// The reply to an order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    StalenessBound(Duration),
    At(Moment),
    Revoked(Revoked),
    LetIn(u64),
    Report(Box<Report>),
    /// The order failed, for this reason.
    Failed(String),
}

/// The result of a revoke-all.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// The time when it returned.
    pub(crate) at: Moment,
    pub(crate) took: Duration,
    /// The number of active sessions, as the response counts them.
    pub(crate) count: u64,
    pub(crate) visibility: Visibility,
}

/// A serializable copy of `session_layer::Visibility`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Visibility {
    Nothing,
    Propagated,
    Committed { within: Duration, at_most: Duration },
}

/// A node's figures since the mark.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Validations that were served from Redis.
    pub(crate) hits: u64,
    /// All validations.
    pub(crate) validations: u64,
    /// Validations that returned Unavailable.
    pub(crate) unavailable: u64,
    /// The longest time without a hit.
    pub(crate) without_hits: Duration,
    /// The highest age of the journal. `None`: it was never read.
    pub(crate) journal_age: Option<Duration>,
    /// Validations that accepted an ended session although they began after the bound.
    pub(crate) let_in: u64,
    /// Those of them during which the node considered itself connected to Postgres.
    pub(crate) let_in_in_touch: u64,
    /// Validations of valid sessions that returned Invalid.
    pub(crate) refused: u64,
    /// The number of times that the health document had each status.
    pub(crate) health: BTreeMap<String, u32>,
    /// The errors of the health documents.
    pub(crate) errors: BTreeSet<String>,
}
