//! Counting what was found in Redis and could not be served.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::Rejected;
use crate::codec::Rejection;

/// The counters that a [`Rejected`] is a snapshot of.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    undecodable: AtomicU64,
    unsealed: AtomicU64,
    unknown_key: AtomicU64,
    forged: AtomicU64,
    outlived: AtomicU64,
    foreign: AtomicU64,
}

impl Rejections {
    /// A value that the codec rejected.
    pub(super) fn count(&self, why: Rejection) {
        let (counter, what) = match why {
            Rejection::Undecodable => (&self.undecodable, "it cannot be decoded"),
            Rejection::TooLarge => (&self.undecodable, "it is too large"),
            Rejection::Unsealed => (&self.unsealed, "it is not sealed"),
            Rejection::UnknownKey => (&self.unknown_key, "it is sealed with another key"),
            Rejection::Forged => (&self.forged, "it does not open"),
            Rejection::Outlived => (&self.outlived, "it is of another incarnation"),
        };
        let before = counter.fetch_add(1, Ordering::Relaxed);
        if why == Rejection::Forged && before == 0 {
            // Said once; the counter says how often.
            tracing::warn!(
                "a value in Redis was changed, moved, or not made by this application: it does not open \
                 with the sealing key that it names; who else can write there?"
            );
        }
        tracing::debug!(what, "a value in Redis could not be served");
    }

    /// What is no string at all.
    pub(super) fn count_wrong_type(&self) {
        self.count(Rejection::Undecodable);
    }

    /// An entry that opened and is of another store.
    pub(super) fn count_foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a value in Redis could not be served: it is of another store");
    }

    pub(super) fn snapshot(&self) -> Rejected {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Rejected {
            undecodable: get(&self.undecodable),
            unsealed: get(&self.unsealed),
            unknown_key: get(&self.unknown_key),
            forged: get(&self.forged),
            outlived: get(&self.outlived),
            foreign: get(&self.foreign),
        }
    }
}
