//! Freshness: the verdict whether an entry of the cache may be served.
//!
//! Four parts contribute to the verdict: the journal of changes, the changes of this node that the
//! journal does not show yet, the registry of the caches that nodes use, and the store's clock and
//! id. This file combines them.
//!
//! A look-up is checked twice, before and after the cache replies. An entry may have been read
//! before an invalidation that was acknowledged meanwhile, or checked before the journal that was
//! read meanwhile.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::cache::{CacheIdentity, Entry, EntryVerdict, Lookup};
use crate::engine::changed_set::JournalVerdict;
use crate::engine::journal::Journal;
use crate::engine::observed_store::ObservedStore;
use crate::engine::pending_invalidations::{PendingInvalidations, RejectedVersions};
use crate::engine::registry::Registry;
use crate::model::clock::Timestamp;
use crate::model::token::TokenDigest;
use crate::store::StoreId;

/// How far another node's notion of the store's clock may be ahead of ours: 5 s.
///
/// Each node carries the clock forward from the store's last reply. Of two machines that idle for a
/// day, one may be off by seconds.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// The parts of this node that decide whether an entry may be served.
#[derive(Debug)]
pub(crate) struct Freshness {
    pub(crate) journal: Arc<Journal>,
    pub(crate) pending: Arc<PendingInvalidations>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) observed: Arc<ObservedStore>,
    /// How long an entry may be served.
    pub(crate) ttl: Duration,
    /// Whether there is a journal to read: other nodes change the store, and there is a cache.
    pub(crate) has_journal: bool,
}

/// The check of one look-up, before the cache replies.
#[derive(Debug)]
pub(crate) struct LookupCheck {
    began: Instant,
    is_registered: bool,
    rejected: SmallVec<[Option<RejectedVersions>; 1]>,
}

impl Freshness {
    /// Begins the check of a look-up in this cache.
    pub(crate) fn begin_check(
        &self,
        digests: &[TokenDigest],
        cache: CacheIdentity,
        now: Instant,
    ) -> LookupCheck {
        LookupCheck {
            began: now,
            is_registered: self.is_registered(cache, now),
            rejected: digests
                .iter()
                .map(|digest| self.pending.rejected_versions(digest, now))
                .collect(),
        }
    }

    /// Returns the verdict on one entry, when the cache has replied.
    pub(crate) fn verdict(&self, check: &LookupCheck, entry: &Entry, now: Instant) -> EntryVerdict {
        let journal = match self.journal.verdict(entry, now) {
            JournalVerdict::Current if !check.is_registered => JournalVerdict::Unknown,
            verdict => verdict,
        };
        verdict(entry, self.observed.at(now), self.store_id(), self.ttl, journal)
    }

    /// Returns the verdict on an entry of this process. No reply arrives in between, so one check
    /// is enough. It reads the pending invalidations first, because a journal read removes them.
    pub(crate) fn verdict_now(
        &self,
        digest: &TokenDigest,
        entry: &Entry,
        now: Instant,
    ) -> EntryVerdict {
        let check = self.begin_check(&[*digest], CacheIdentity::OfThisNode, now);
        let version = entry.session.version();
        if check.rejected.iter().flatten().any(|rejected| rejected.contains(version)) {
            return EntryVerdict::Stale;
        }
        self.verdict(&check, entry, now)
    }

    /// Ends the check. Hits that were rejected meanwhile become misses.
    pub(crate) fn end_check<L>(
        &self,
        check: LookupCheck,
        digests: &[TokenDigest],
        cache: CacheIdentity,
        now: Instant,
        found: &mut [Lookup<L>],
    ) {
        // A connection to another server may have been opened meanwhile.
        let is_registered = check.is_registered && self.is_registered(cache, now);
        for ((digest, before), lookup) in digests.iter().zip(check.rejected).zip(found) {
            if let Lookup::Hit(entry) = lookup {
                let version = entry.session.version();
                let after = self.pending.rejected_versions(digest, check.began);
                let rejected = [before, after];
                if !is_registered || rejected.iter().flatten().any(|it| it.contains(version)) {
                    *lookup = Lookup::DoNotFill;
                }
            }
        }
    }

    /// Returns whether a reply of the store is of the life whose journal this node has read. If
    /// not, the journal is read again until `deadline`.
    pub(crate) async fn is_of_this_life(&self, store_id: StoreId, deadline: Instant) -> bool {
        !self.has_journal || self.journal.is_of_life(store_id, deadline).await
    }

    /// Records a change of this node. It rejects older entries until it reads the change in its
    /// journal, also entries that another client writes back to the cache.
    pub(crate) fn changed_here(&self, digests: &[TokenDigest], least_version: Option<i64>) {
        // Without a journal nothing would end this.
        if self.has_journal {
            self.pending.changed_here(digests, least_version, Instant::now());
        }
    }

    /// Returns whether entries may be served at all.
    pub(crate) fn permits_serving(&self, now: Instant) -> bool {
        !self.has_journal || self.journal.permits_serving(now)
    }

    /// Returns the life of the store that entries must be of. `None`: it is not known yet.
    fn store_id(&self) -> Option<StoreId> {
        if self.has_journal { self.journal.store_id() } else { self.observed.id() }
    }

    /// Returns whether entries of this cache may be served.
    fn is_registered(&self, cache: CacheIdentity, now: Instant) -> bool {
        // A cache whose links lead nowhere, or to several servers, serves no entries.
        !self.has_journal
            || cache != CacheIdentity::Unsettled
                && self.registry.admits(cache, self.journal.last_read(), now)
    }
}

/// Returns whether an entry may be served at `now`, by the store's clock.
///
/// `store_id` is the life of the store that this node knows. `ttl` is this node's own: it also
/// counts for an entry of a node with a longer TTL, or the stated bounds would not hold.
fn verdict(
    entry: &Entry,
    now: Timestamp,
    store_id: Option<StoreId>,
    ttl: Duration,
    journal: JournalVerdict,
) -> EntryVerdict {
    let is_foreign = journal == JournalVerdict::Foreign
        || journal == JournalVerdict::Current && store_id.is_some_and(|id| id != entry.store_id);
    let is_expired = now >= entry.not_after || now.since(entry.read_at) >= ttl;
    // The store's clock was set back after the read, so the entry's age is unknown. Before the
    // store's first reply it may be our own clock that is wrong.
    let is_ahead = store_id.is_some() && entry.read_at > now.after(CLOCK_TOLERANCE);
    if is_foreign {
        EntryVerdict::Foreign
    } else if is_expired || is_ahead || journal == JournalVerdict::Outdated {
        EntryVerdict::Stale
    } else if store_id.is_none() || journal == JournalVerdict::Unknown {
        EntryVerdict::Unverified
    } else {
        EntryVerdict::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::{SessionId, SessionParts};

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);
    const TTL: Duration = Duration::from_secs(300);

    fn entry(store_id: StoreId, not_after: Timestamp) -> Entry {
        let session = SessionParts::new(SessionId::from_bytes([1; 16]), "alice", NOW);
        let expires_at = NOW.after(Duration::from_secs(9));
        let session = SessionParts { expires_at, ..session }.into();
        Entry { session, user_epoch: 0, store_id, xmin: 0, read_at: NOW, not_after }
    }

    #[test]
    fn entry_is_fresh_while_young_and_of_this_store() {
        let ours = [1; 16];
        let later = NOW.after(Duration::from_micros(1));
        use EntryVerdict::{Foreign, Fresh, Stale, Unverified};
        use JournalVerdict::{Current, Outdated, Unknown};
        for (store, not_after, journal, expected) in [
            (Some(ours), later, Current, Fresh),
            (Some(ours), NOW, Current, Stale),
            (Some([2; 16]), later, Current, Foreign),
            (None, later, Current, Unverified),
            (None, NOW, Current, Stale),
            (Some(ours), later, Unknown, Unverified),
            (Some(ours), NOW, Unknown, Stale),
            (Some(ours), later, Outdated, Stale),
            (None, later, Outdated, Stale),
        ] {
            let entry = entry(ours, not_after);
            assert_eq!(verdict(&entry, NOW, store, TTL, journal), expected);
        }
        // Another node's TTL is longer than ours.
        let long = entry(ours, NOW.after(TTL * 9));
        for (age, expected) in [(TTL / 2, Fresh), (TTL, Stale)] {
            assert_eq!(verdict(&long, NOW.after(age), Some(ours), TTL, Current), expected);
        }
    }

    #[test]
    fn entry_from_before_the_stores_clock_was_set_back_is_stale() {
        let ours = Some([1; 16]);
        let entry = entry([1; 16], NOW.after(TTL));
        let set_back = |by: Duration| {
            Timestamp::from_micros(NOW.as_micros() - i64::try_from(by.as_micros()).unwrap())
        };
        for (by, store, expected) in [
            (CLOCK_TOLERANCE, ours, EntryVerdict::Fresh),
            (CLOCK_TOLERANCE + Duration::from_micros(1), ours, EntryVerdict::Stale),
            (Duration::from_secs(600), ours, EntryVerdict::Stale),
            (Duration::from_secs(600), None, EntryVerdict::Unverified),
        ] {
            let verdict = verdict(&entry, set_back(by), store, TTL, JournalVerdict::Current);
            assert_eq!(verdict, expected, "{by:?}");
        }
    }
}
