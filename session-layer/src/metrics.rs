//! What happened: counters since the start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one process since its start. A snapshot: cheap, and not synchronized across fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Validations answered from the cache alone.
    pub hits: u64,
    /// Validations for which the cache had nothing to serve.
    pub misses: u64,
    /// Validations for which the cache could not be asked.
    pub errors: u64,
    /// Of those, the ones that did not ask because the breaker was open.
    pub not_asked: u64,
    /// How often the breaker has opened.
    pub breaker_opened: u64,
    /// Validations made in bypass mode: the cache was not to be asked. Not part of `total`.
    pub bypassed: u64,
    /// Validations that nobody could answer.
    pub unavailable: u64,
    /// Reads of the store made for validations: statements, each for one token or many.
    pub store_reads: u64,
    /// Tokens that those reads were about.
    pub tokens_read: u64,
    /// Tokens for which a validation joined others that waited for the same one: they cost no read.
    pub coalesced: u64,
    /// Reads of the store in flight at this moment.
    pub reads_in_flight: u64,
    /// The most there were at once. Never more than `reads_at_once`.
    pub most_reads_in_flight: u64,
    /// How many there may be at once
    /// ([`SessionsBuilder::reads_at_once`](crate::SessionsBuilder::reads_at_once)).
    pub reads_at_once: u64,
    /// Tokens that validations wait for at this moment and whose read has not begun.
    pub reads_waiting: u64,
    /// Validations that were answered "unavailable" at once, because the store's answer would have come
    /// too late. Part of `unavailable`.
    pub shed: u64,
    /// Copies put into the cache.
    pub fills: u64,
    /// Fills that were refused because their lease no longer stood: each may be a stale copy that was
    /// kept out.
    pub fills_refused: u64,
    /// Revocations, updates and rotations whose invalidation the cache has not acknowledged yet.
    pub unacknowledged: u64,
    /// Reads of the journal that succeeded.
    pub journal_reads: u64,
    /// How long ago the last of them began: over D (2 s by default) this node has lost touch with the
    /// store. `None`: it has read nothing yet, and believes no copy; or there is no journal to read, since nobody
    /// else changes the store, or nothing is cached.
    pub journal_age: Option<Duration>,
    /// Sessions in this node's changed-set: those that changed since the journal's beginning.
    pub changed_sessions: u64,
}

impl Metrics {
    /// `hits + misses + errors`.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.hits + self.misses + self.errors
    }

    /// Hits in percent of the total; 0 where nothing was asked.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a percentage to be looked at")]
    pub fn hit_rate(&self) -> f64 {
        if self.total() == 0 {
            0.0
        } else {
            self.hits as f64 * 100.0 / self.total() as f64
        }
    }
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, many: u64) {
        self.0.fetch_add(many, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters that a [`Metrics`] is a snapshot of.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) errors: Counter,
    pub(crate) not_asked: Counter,
    pub(crate) bypassed: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) store_reads: Counter,
    pub(crate) tokens_read: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) shed: Counter,
    pub(crate) fills: Counter,
    pub(crate) fills_refused: Counter,
    pub(crate) journal_reads: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hit_rate_of_nothing_is_zero() {
        assert!(Metrics::default().hit_rate().abs() < f64::EPSILON);
        let some = Metrics {
            hits: 850,
            misses: 150,
            ..Metrics::default()
        };
        assert!((some.hit_rate() - 85.0).abs() < 1e-9);
    }
}
