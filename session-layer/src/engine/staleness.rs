//! How often the journal is read, and the bounds that follow from it.

use std::time::Duration;

/// How often the journal is read by default: every 500 ms.
///
/// A read takes about 0.1 ms of Postgres, so this is no load. A node tolerates three failed reads
/// before it considers itself stale.
pub const DEFAULT_JOURNAL_INTERVAL: Duration = Duration::from_millis(500);

/// The staleness bound D in intervals of the journal.
const INTERVALS: u32 = 4;

/// The behavior of a node while it is partitioned from Postgres.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartitionPolicy {
    /// The node serves entries until their TTL. A session that is revoked meanwhile remains valid
    /// on this node for at most TTL + 2 s.
    #[default]
    Available,
    /// The node serves no entries, and requests get 503. No node serves a revoked session later
    /// than D after the COMMIT, whatever Redis does.
    FailClosed,
}

/// The interval of the journal's reads, and the policy for a journal that cannot be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalTiming {
    pub(crate) interval: Duration,
    pub(crate) policy: PartitionPolicy,
}

impl JournalTiming {
    /// Returns D: every node that reaches the store honors a change after this time.
    pub(crate) fn staleness_bound(self) -> Duration {
        self.interval * INTERVALS
    }
}
