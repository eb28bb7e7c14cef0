//! The changed set: the changes by other nodes and by direct SQL that a node has read.
//!
//! Postgres writes a row into the journal with every change. Every node reads the new rows twice a
//! second (`engine/journal_reader.rs`) and keeps them here. The set holds which sessions have
//! ended, and the least version of the other sessions that is still current. Every entry is checked
//! against it before it is served. A revoked session therefore ends on this node whatever Redis
//! holds, also after a failover or a restart from an old dump.
//!
//! An entry must pass four checks, all under one lock (see [`ChangedSet`]):
//!
//! 1. The journal was read. Under [`PartitionPolicy::FailClosed`] the last successful read *began*
//!    at most D ago.
//! 2. The entry is of the life of the store whose journal was read. Transaction ids of two lives
//!    are never compared.
//! 3. No change in the set rejects it: neither a change of the session, nor its user's epoch, nor a
//!    TRUNCATE.
//! 4. It is not older than the beginning of this node's journal. The entry names the transactions
//!    that its read may not have seen (`xmin`). Their changes are in the set, or were purged.
//!
//! No check depends on a wall clock or on a time window. A row that is committed late is read late,
//! because the next read returns every row that the last one's snapshot did not show.
//!
//! Every decision is a function of its arguments, the time included.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::cache::Entry;
use crate::engine::staleness::{JournalTiming, PartitionPolicy};
use crate::model::session::SessionId;
use crate::model::token::TokenDigest;
use crate::store::{JournalChange, JournalRead, StoreId};

/// The limit of sessions and users in the changed set: about 40 MiB. A node that would exceed it
/// drops the older half, and rejects entries that a dropped change may concern. At 1,000 changes a
/// second, half of the limit is 200 s of changes.
const MAX_CHANGED: usize = 400_000;

/// The verdict of the journal on one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JournalVerdict {
    /// No change rejects it.
    Current,
    /// A change is newer, or the entry is older than the set. It can never be served again.
    Outdated,
    /// It is of another life of the store, or of another store.
    Foreign,
    /// This node has not read the journal, or not recently enough for its policy.
    Unknown,
}

/// The changes since the beginning of this node's journal, and the age of the last read.
///
/// One lock protects all of it. If the age were examined after the set, a read that ended in
/// between would make a set without its rows look recent.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct ChangedSet {
    /// When the last successful read began. `None`: there was none yet.
    pub(crate) read: Option<Instant>,
    /// The life of the store that the set is of.
    store_id: Option<StoreId>,
    /// Changes of earlier transactions were purged, or dropped.
    begins: u64,
    changed: HashMap<SessionId, SessionChange>,
    users: HashMap<Box<str>, RaisedEpoch>,
    /// The transaction of the last TRUNCATE. Entries that may not have seen it are outdated.
    truncated: Option<u64>,
}

/// The last known change of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SessionChange {
    xid: u64,
    /// The least version that is still current. `None`: the session has ended.
    least_version: Option<i64>,
}

/// The last raise of one user's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RaisedEpoch {
    xid: u64,
    /// Sessions with a lower epoch have ended.
    epoch: i64,
}

impl ChangedSet {
    /// Returns the verdict on an entry, at `now`.
    pub(crate) fn verdict(
        &self,
        entry: &Entry,
        now: Instant,
        timing: JournalTiming,
    ) -> JournalVerdict {
        let Some(read) = self.read else {
            return JournalVerdict::Unknown;
        };
        let stale = now.saturating_duration_since(read) > timing.staleness_bound();
        if self.store_id.is_some_and(|here| here != entry.store_id) {
            // A partitioned node may have missed a restart of the store. The entry may then be
            // current.
            return if stale { JournalVerdict::Unknown } else { JournalVerdict::Foreign };
        }
        let session = &entry.session;
        let changed = self.changed.get(&session.id());
        let old = changed.is_some_and(|changed| !changed.allows(session.version()));
        let raised = self.users.get(session.user_id());
        let ended = raised.is_some_and(|raised| entry.user_epoch < raised.epoch);
        let truncated = self.truncated.is_some_and(|xid| entry.xmin <= xid);
        if old || ended || truncated || entry.xmin < self.begins {
            return JournalVerdict::Outdated;
        }
        if stale && timing.policy == PartitionPolicy::FailClosed {
            return JournalVerdict::Unknown;
        }
        JournalVerdict::Current
    }

    /// Adds a page of a read that began at `began`. Returns the digests of sessions that have
    /// ended.
    ///
    /// A page only rejects entries. The last page sets the age of the read.
    pub(crate) fn learn(&mut self, began: Instant, read: &JournalRead) -> Vec<TokenDigest> {
        if self.store_id != Some(read.store_id) {
            *self = Self { store_id: Some(read.store_id), ..Self::default() };
        }
        let mut ended = Vec::new();
        for row in &read.rows {
            // The row could only reject entries that are rejected anyway.
            if row.xid < self.begins {
                continue;
            }
            match &row.change {
                JournalChange::All => {
                    self.truncated = Some(self.truncated.map_or(row.xid, |xid| xid.max(row.xid)));
                }
                JournalChange::User { user_id, epoch } => self.raise(user_id, row.xid, *epoch),
                JournalChange::Session { id, digests, least_version } => {
                    let new = SessionChange { xid: row.xid, least_version: *least_version };
                    let known = self.changed.get(id).copied();
                    let merged = known.map_or(new, |known| known.and(new));
                    self.changed.insert(*id, merged);
                    let is_new = known.is_none_or(|known| known != merged);
                    // The next look-up replaces the entry of a session that was updated. If every
                    // node invalidated it, they would remove the new entry.
                    if is_new && least_version.is_none() {
                        ended.extend(digests);
                    }
                }
            }
        }
        self.begin_at(read.floor);
        self.bound(MAX_CHANGED);
        if read.is_complete() && self.read.replace(began).is_none() {
            tracing::debug!(changed = self.len(), "the journal of changed sessions was read");
        }
        ended
    }

    /// Records that a user's epoch was raised.
    pub(crate) fn raise(&mut self, user_id: &str, xid: u64, epoch: i64) {
        let raised = self.users.entry(user_id.into()).or_insert(RaisedEpoch { xid, epoch });
        raised.xid = raised.xid.max(xid);
        raised.epoch = raised.epoch.max(epoch);
    }

    /// Returns how many sessions and users are in the set.
    pub(crate) fn len(&self) -> usize {
        self.changed.len() + self.users.len()
    }

    /// Returns when the last successful read began, and the life of the store that was read.
    pub(crate) fn last_read(&self) -> Option<(Instant, StoreId)> {
        self.read.zip(self.store_id)
    }

    /// Returns the life of the store whose changes are in the set. It stays known in a pause.
    pub(crate) fn life(&self) -> Option<StoreId> {
        self.store_id
    }

    /// Begins the set at this transaction, and drops earlier changes. They are not needed, because
    /// older entries are outdated.
    fn begin_at(&mut self, xid: u64) {
        if xid <= self.begins {
            return;
        }
        self.begins = xid;
        self.changed.retain(|_, changed| changed.xid >= xid);
        self.users.retain(|_, raised| raised.xid >= xid);
        self.truncated = self.truncated.filter(|truncated| *truncated >= xid);
    }

    /// Drops the older half if there are more than `limit` sessions and users.
    fn bound(&mut self, limit: usize) {
        let len = self.len();
        if len <= limit {
            return;
        }
        let sessions = self.changed.values().map(|change| change.xid);
        let users = self.users.values().map(|raised| raised.xid);
        let mut xids: Vec<u64> = sessions.chain(users).collect();
        let (_, median, _) = xids.select_nth_unstable(len / 2);
        let after = median.saturating_add(1);
        self.begin_at(after);
        tracing::debug!(
            dropped = len - self.len(),
            "too many sessions changed: sessions with older entries are read from the store again"
        );
    }
}

impl SessionChange {
    /// Returns whether an entry of this version is still current.
    fn allows(self, version: i64) -> bool {
        self.least_version.is_some_and(|least| version >= least)
    }

    /// Combines two changes. The end of a session is final. Of two versions, the higher counts.
    fn and(self, other: Self) -> Self {
        Self {
            xid: self.xid.max(other.xid),
            least_version: match (self.least_version, other.least_version) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
#[path = "changed_set/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "changed_set/interleavings.rs"]
mod interleavings;
