//! Counters of the values in Redis that could not be served.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::Rejected;
use crate::cache::codec::EntryRejection;

/// The counters behind a [`Rejected`].
#[derive(Debug, Default)]
pub(super) struct RejectedCounters {
    undecodable: AtomicU64,
    unsealed: AtomicU64,
    unknown_key: AtomicU64,
    forged: AtomicU64,
    stale_incarnation: AtomicU64,
    foreign: AtomicU64,
}

impl RejectedCounters {
    /// Counts a value that the codec rejected.
    pub(super) fn count(&self, why: EntryRejection) {
        let (counter, reason) = match why {
            EntryRejection::Undecodable => (&self.undecodable, "does not decode"),
            EntryRejection::TooLarge => (&self.undecodable, "too large"),
            EntryRejection::Unsealed => (&self.unsealed, "not sealed"),
            EntryRejection::UnknownKey => (&self.unknown_key, "sealed with an unknown key"),
            EntryRejection::Forged => (&self.forged, "does not open"),
            EntryRejection::StaleIncarnation => (&self.stale_incarnation, "of another incarnation"),
        };
        let before = counter.fetch_add(1, Ordering::Relaxed);
        if why == EntryRejection::Forged && before == 0 {
            // Logged once. The counter has the total.
            tracing::warn!(
                "a value in Redis was changed, moved, or not made by this application: it does not \
                 open with the sealing key that it names. Find the client that writes to it"
            );
        }
        tracing::debug!(reason, "a value in Redis could not be served");
    }

    /// Counts an entry that decoded but is of another store.
    pub(super) fn count_foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a value in Redis could not be served because it is of another store");
    }

    pub(super) fn snapshot(&self) -> Rejected {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Rejected {
            undecodable: get(&self.undecodable),
            unsealed: get(&self.unsealed),
            unknown_key: get(&self.unknown_key),
            forged: get(&self.forged),
            stale_incarnation: get(&self.stale_incarnation),
            foreign: get(&self.foreign),
        }
    }
}
