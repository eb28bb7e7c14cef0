//! The journal as one node has read it: the changed set, and the signals of its reader.

use std::sync::RwLock;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::cache::Entry;
use crate::engine::changed_set::{ChangedSet, JournalVerdict};
use crate::engine::staleness::{JournalTiming, PartitionPolicy};
use crate::model::lock::{read, write};
use crate::model::token::TokenDigest;
use crate::store::{EndedUser, JournalRead, StoreId};

/// One node's journal.
#[derive(Debug)]
pub(crate) struct Journal {
    timing: JournalTiming,
    changes: RwLock<ChangedSet>,
    wanted: Notify,
    /// How many reads have ended, successful or not.
    reads: watch::Sender<u64>,
}

impl Journal {
    /// Creates a journal of which nothing has been read.
    pub(crate) fn new(timing: JournalTiming) -> Self {
        let (changes, wanted, reads) = Default::default();
        Self { timing, changes, wanted, reads }
    }

    /// Creates the journal of a store that only this node can change. This node makes every change,
    /// so it can't miss one, and nothing is ever read.
    pub(crate) fn of_an_exclusive_store(timing: JournalTiming) -> Self {
        let journal = Self::new(JournalTiming { policy: PartitionPolicy::Available, ..timing });
        write(&journal.changes).read = Some(Instant::now());
        journal
    }

    pub(crate) fn timing(&self) -> JournalTiming {
        self.timing
    }

    /// Returns what the journal shows about an entry.
    pub(crate) fn verdict(&self, entry: &Entry, now: Instant) -> JournalVerdict {
        read(&self.changes).verdict(entry, now, self.timing)
    }

    /// Adds a page of a read that began at `began`. Returns the digests of sessions that have
    /// ended.
    pub(crate) fn learn(&self, began: Instant, page: &JournalRead) -> Vec<TokenDigest> {
        write(&self.changes).learn(began, page)
    }

    /// Records that this node has raised a user's epoch. Older entries are rejected from now on.
    pub(crate) fn raised(&self, user: &EndedUser) {
        write(&self.changes).raise(&user.user_id, user.xid, user.epoch);
    }

    /// Forgets that the journal was read, because it is not read during a pause. No entry is served
    /// until a read that begins later has ended. The changed set stays, and that read adds to it.
    pub(crate) fn forget_read(&self) {
        write(&self.changes).read = None;
    }

    /// Returns the age of the last successful read. `None`: there was none yet, or none since a
    /// pause.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(read(&self.changes).read?))
    }

    /// Returns when the last successful read began, and the life of the store that was read.
    pub(crate) fn last_read(&self) -> Option<(Instant, StoreId)> {
        read(&self.changes).last_read()
    }

    /// Returns the life of the store that was read. `None` before the first successful read.
    pub(crate) fn store_id(&self) -> Option<StoreId> {
        Some(self.last_read()?.1)
    }

    /// Returns whether entries may be served at all.
    pub(crate) fn permits_serving(&self, now: Instant) -> bool {
        self.age(now).is_some_and(|age| {
            self.timing.policy == PartitionPolicy::Available || age <= self.timing.staleness_bound()
        })
    }

    /// Returns how many sessions and users are in the changed set.
    pub(crate) fn len(&self) -> usize {
        read(&self.changes).len()
    }

    /// Requests a read at once.
    pub(crate) fn request_read(&self) {
        self.wanted.notify_one();
    }

    /// Waits for [`request_read`](Self::request_read).
    pub(crate) async fn read_requested(&self) {
        self.wanted.notified().await;
    }

    /// Records that a read has ended, successful or not.
    pub(crate) fn read_ended(&self) {
        self.reads.send_modify(|reads| *reads += 1);
    }

    /// Waits until the journal is of the life `store_id`, and has it read at once meanwhile.
    /// Returns `false` at the deadline.
    ///
    /// A reply of another life shows that the store has restarted, or that reads and the journal
    /// reach two servers (a cut-over that left the old one running). The journal decides.
    pub(crate) async fn is_of_life(&self, store_id: StoreId, deadline: Instant) -> bool {
        // Also after a pause: the node knows its life, although no read permits hits yet.
        let agrees = || read(&self.changes).life().is_none_or(|here| here == store_id);
        if agrees() {
            return true;
        }
        let mut reads = self.reads.subscribe();
        while !agrees() {
            self.request_read();
            match timeout_at(deadline, reads.changed()).await {
                Ok(Ok(())) => {}
                _ => return false,
            }
        }
        true
    }
}
