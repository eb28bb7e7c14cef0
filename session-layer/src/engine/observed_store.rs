//! What the store's replies show: its clock, and which store replies.

use std::sync::Mutex;

use tokio::time::Instant;

use crate::model::clock::Timestamp;
use crate::model::lock::lock;
use crate::store::{JournalRead, ReadResult, StoreId};

/// The store's clock and id, from its last reply.
///
/// An entry's `not_after` is a moment of the *store's* clock, so it is compared with the store's
/// clock, which this machine's monotonic clock carries forward from the last reply. A node whose
/// wall clock is stepped by ten minutes neither serves expired sessions nor rejects active ones.
#[derive(Debug, Default)]
pub(crate) struct ObservedStore {
    /// When the last query with a reply was sent, and the store's clock in the reply.
    clock: Mutex<Option<(Instant, Timestamp)>>,
    id: Mutex<Option<StoreId>>,
}

impl ObservedStore {
    /// Takes the reply to a read that was sent at `sent`. Counting from then makes the carried
    /// clock fast by at most the round trip. An entry therefore expires early, never late.
    pub(crate) fn read(&self, sent: Instant, reply: &ReadResult) {
        *lock(&self.clock) = Some((sent, reply.now));
        *lock(&self.id) = Some(reply.store_id);
    }

    /// Takes a page of the journal that was requested at `sent`. A node with a warm cache reads
    /// nothing else, so its clock depends on these.
    pub(crate) fn journal_read(&self, sent: Instant, page: &JournalRead) {
        *lock(&self.clock) = Some((sent, page.now));
    }

    /// Returns the time of the store's clock at `now`. Before the store's first reply it is this
    /// machine's.
    pub(crate) fn at(&self, now: Instant) -> Timestamp {
        match *lock(&self.clock) {
            Some((sent, replied)) => carried(replied, sent, now),
            None => Timestamp::now(),
        }
    }

    /// Returns how far this machine's wall clock is ahead of the store's, in microseconds. `None`
    /// before the store's first reply.
    #[cfg(feature = "metrics")]
    pub(crate) fn wall_clock_ahead(&self) -> Option<i64> {
        let (sent, replied) = (*lock(&self.clock))?;
        let store = carried(replied, sent, Instant::now());
        Some(Timestamp::now().as_micros().saturating_sub(store.as_micros()))
    }

    /// Returns the id of the store that replied last. `None` before its first reply.
    pub(crate) fn id(&self) -> Option<StoreId> {
        *lock(&self.id)
    }
}

fn carried(replied: Timestamp, sent: Instant, now: Instant) -> Timestamp {
    replied.after(now.saturating_duration_since(sent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn store_clock_counts_from_when_the_query_was_sent() {
        let sent = Instant::now();
        let replied = Timestamp::from_micros(1_000_000);
        let later = sent + Duration::from_secs(2);
        assert_eq!(carried(replied, sent, later), Timestamp::from_micros(3_000_000));
    }
}
