//! The settings of one engine.

use std::num::NonZero;
use std::time::Duration;

use crate::cache::LEASE_TTL;
use crate::engine::staleness::JournalTiming;

/// The settings that the builder has checked. `SessionsBuilder` documents each of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long an entry may be served.
    pub(crate) ttl: Duration,
    /// How long a validation may take in all.
    pub(crate) validation_timeout: Duration,
    /// A look-up in the cache that takes longer is slow.
    pub(crate) slow_lookup_threshold: Duration,
    /// The limit of concurrent reads of the store. `None`: the store's own advice.
    pub(crate) max_concurrent_reads: Option<usize>,
    /// How many bytes of entries this process keeps. `None`: there is no near cache.
    pub(crate) near_cache_bytes: Option<NonZero<usize>>,
    /// How long a login, a change or a list may wait before it begins.
    pub(crate) change_wait: Duration,
    /// How the journal is read.
    pub(crate) journal: JournalTiming,
    /// How long ended sessions stay in the store. `None`: forever.
    pub(crate) retention: Option<Duration>,
    /// The time without a request after which the node sends nothing to the store. `None`: it
    /// always reads the journal.
    pub(crate) pause_after: Option<Duration>,
    /// Whether spans have the ids of users and sessions.
    pub(crate) trace_ids: bool,
}

impl Settings {
    /// Returns the age at which an entry that no node invalidates is gone: its lease, then its TTL.
    pub(crate) fn longest_entry_life(&self) -> Duration {
        self.ttl + LEASE_TTL
    }

    /// Returns the outer deadline of a validation's calls, and of every call of the cache.
    ///
    /// A later reply is of no use: the request was answered, and the lease has expired.
    pub(crate) fn call_deadline(&self) -> Duration {
        LEASE_TTL.max(self.validation_timeout)
    }
}
