//! What the store's replies show: its clock, and which store replies.

use std::sync::Mutex;

use tokio::time::Instant;

use crate::model::clock::{StoreClock, Timestamp};
use crate::model::lock::lock;
use crate::store::{JournalRead, ReadResult, StoreId};

/// The store's clock and id, from its last reply.
#[derive(Debug, Default)]
pub(crate) struct ObservedStore {
    clock: StoreClock,
    id: Mutex<Option<StoreId>>,
}

impl ObservedStore {
    /// Takes the reply to a read that was sent at `sent`.
    pub(crate) fn read(&self, sent: Instant, reply: &ReadResult) {
        self.clock.heard(sent, reply.now);
        *lock(&self.id) = Some(reply.store_id);
    }

    /// Takes a page of the journal that was requested at `sent`. A node with a warm cache reads
    /// nothing else, so its clock depends on these.
    pub(crate) fn journal_read(&self, sent: Instant, page: &JournalRead) {
        self.clock.heard(sent, page.now);
    }

    /// Returns the time of the store's clock. Before the store's first reply it is this machine's.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the id of the store that replied last. `None` before its first reply.
    pub(crate) fn id(&self) -> Option<StoreId> {
        *lock(&self.id)
    }
}
