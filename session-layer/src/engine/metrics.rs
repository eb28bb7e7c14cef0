//! Counters since the start of the process.

use std::time::Duration;

use crate::engine::counter::Counter;
use crate::engine::instruments::Instruments;

/// The counters of one process since its start, and its gauges. The snapshot is cheap and not
/// synchronized across fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Validations that a cache alone served: the near cache or the shared one.
    pub hits: u64,
    /// Validations that the [near cache](crate::SessionsBuilder::near_cache) served. Part of
    /// `hits`.
    pub near_hits: u64,
    /// Entries in the near cache now.
    pub near_entries: u64,
    /// Bytes that the near cache takes now.
    pub near_bytes: u64,
    /// The limit of those bytes, or 0 without a near cache.
    pub near_limit_bytes: u64,
    /// Validations for which the cache had nothing to serve.
    pub misses: u64,
    /// Validations for which the cache failed or could not be queried.
    pub errors: u64,
    /// Validations that did not query the cache because the breaker was open. Part of `errors`.
    pub skipped_by_breaker: u64,
    /// The number of times that the breaker has opened.
    pub breaker_opened: u64,
    /// Validations in bypass mode, which do not query the cache. Not part of `total`.
    pub bypassed: u64,
    /// Validations that neither the cache nor the store could decide.
    pub unavailable: u64,
    /// Reads of the store for validations. Each is one statement for one token or many.
    pub store_reads: u64,
    /// Tokens in all `store_reads`.
    pub tokens_read: u64,
    /// Tokens for which a validation shared the read of other validations. They cost no read.
    pub coalesced: u64,
    /// Reads of the store that are in flight now.
    pub reads_in_flight: u64,
    /// The highest number of reads in flight so far. It never exceeds `max_concurrent_reads`.
    pub peak_reads_in_flight: u64,
    /// The limit of reads in flight
    /// ([`SessionsBuilder::max_concurrent_reads`](crate::SessionsBuilder::max_concurrent_reads)).
    pub max_concurrent_reads: u64,
    /// Tokens for which validations wait now, and whose read has not begun. A token counts once for
    /// each validation.
    pub reads_waiting: u64,
    /// Validations that were unavailable at once, because the store's reply would have come too
    /// late. Part of `unavailable`.
    pub shed: u64,
    /// Reads of the snapshots of logins
    /// ([`Sessions::begin_login`](crate::Sessions::begin_login)). Each is one statement for one
    /// login or many.
    pub login_reads: u64,
    /// Logins, changes and lists of sessions that wait for their turn now.
    pub changes_waiting: u64,
    /// Logins, changes and lists of sessions that were shed, because they would not have begun
    /// within [`change_wait`](crate::SessionsBuilder::change_wait).
    pub changes_shed: u64,
    /// Entries that were written to the cache.
    pub fills: u64,
    /// Fills that were rejected because their lease was no longer valid. Each may have prevented a
    /// stale entry.
    pub fills_refused: u64,
    /// Tokens whose invalidation the cache has not acknowledged yet.
    pub pending_invalidations: u64,
    /// Attempts to record the use of a session in the store.
    pub touches: u64,
    /// Reads of the journal that succeeded.
    pub journal_reads: u64,
    /// The time since the last successful read of the journal began. Over D (2 s by default), this
    /// node is partitioned from the store.
    ///
    /// `None` before the first read, until which this node serves no entry, and while this node is
    /// paused. Also `None` if there is no journal to read, because no other process changes the
    /// store or there is no cache.
    pub journal_age: Option<Duration>,
    /// Sessions and users in this node's changed set: those that have changed since the beginning
    /// of this node's journal.
    pub changed_sessions: u64,
    /// Whether this node is paused, because there was no traffic
    /// ([`pause_without_traffic`](crate::SessionsBuilder::pause_without_traffic)).
    pub paused: bool,
}

impl Metrics {
    /// Returns `hits + misses + errors`.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.hits + self.misses + self.errors
    }

    /// Returns the hits in percent of the total, or 0 if the total is 0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a percentage is for display")]
    pub fn hit_rate(&self) -> f64 {
        if self.total() == 0 { 0.0 } else { self.hits as f64 * 100.0 / self.total() as f64 }
    }
}

/// The counters of which [`Metrics`] is a snapshot, and the instruments of the feature `metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) near_hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) errors: Counter,
    pub(crate) skipped_by_breaker: Counter,
    pub(crate) bypassed: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) store_reads: Counter,
    pub(crate) tokens_read: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) shed: Counter,
    pub(crate) login_reads: Counter,
    pub(crate) changes_shed: Counter,
    pub(crate) fills: Counter,
    pub(crate) fills_refused: Counter,
    pub(crate) touches: Counter,
    pub(crate) journal_reads: Counter,
    pub(crate) instruments: Instruments,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hit_rate_without_validations_is_zero() {
        assert!(Metrics::default().hit_rate().abs() < f64::EPSILON);
        let some = Metrics { hits: 850, misses: 150, ..Metrics::default() };
        assert!((some.hit_rate() - 85.0).abs() < 1e-9);
    }
}
