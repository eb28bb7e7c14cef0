//! Entries that this node rejects before its journal shows the change: those of its own changes,
//! and those whose invalidation Redis has not acknowledged.
//!
//! A change that was committed while Redis could not be reached leaves its old entry there. A
//! session that Postgres has reported as ended may also leave one. The node serves no entry for
//! these digests. It invalidates them again until Redis acknowledges it, or until every such entry
//! has expired.
//!
//! After Redis has acknowledged the invalidation, this node still rejects the old entries of its
//! own change. It does so until it has read the change in the journal. Otherwise the node that
//! ended a session would serve an old entry that another client writes back to Redis.
//!
//! This state belongs to one node and is lost with it. The bounds that a change returns do not
//! depend on it. It only rejects entries, and may therefore be coarse. If there are too many
//! digests, the node serves no entry at all until it has read the journal, or until the entries
//! have expired. Own changes beyond the limit are not kept. Redis has acknowledged them, and the
//! journal shows them within D.
//!
//! Every decision is a function of its arguments, the time included.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::lock::lock;
use crate::model::token::TokenDigest;

/// The limit of digests of either kind: about 10 MiB. To exceed it, clients must send that many
/// tokens of ended sessions in one outage of Redis. Alternatively, this node must change that many
/// sessions between two reads of the journal.
const MAX_DIGESTS: usize = 100_000;

/// The digests whose entries this node rejects.
#[derive(Debug, Default)]
pub(crate) struct PendingInvalidations {
    state: Mutex<PendingState>,
}

#[derive(Debug, Default)]
struct PendingState {
    /// The digests that were not invalidated, each with the time at which its entry expires.
    unacknowledged: HashMap<TokenDigest, Instant>,
    /// Whether a task is invalidating them again.
    has_task: bool,
    /// The changes of this node that it has not read in the journal.
    own: HashMap<TokenDigest, OwnChange>,
    overflow: Option<Overflow>,
}

/// The time during which digests beyond the limit count. The digests themselves are not kept.
#[derive(Debug, Clone, Copy)]
struct Overflow {
    /// By then their sessions had ended.
    since: Instant,
    /// By then their entries have expired.
    until: Instant,
}

/// One change by this node.
#[derive(Debug, Clone, Copy)]
struct OwnChange {
    /// By then it was committed.
    since: Instant,
    least_version: Option<i64>,
}

/// The versions of a session whose entries are rejected: those below the least version that is
/// still current. `None`: all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RejectedVersions(Option<i64>);

impl RejectedVersions {
    /// Returns whether an entry of this version is rejected.
    pub(crate) fn contains(self, version: i64) -> bool {
        self.0.is_none_or(|least| version < least)
    }
}

impl PendingInvalidations {
    /// Adds digests whose entries expire within `life`. Returns whether the caller must start the
    /// task that invalidates them again.
    #[must_use]
    pub(crate) fn add(&self, digests: &[TokenDigest], now: Instant, life: Duration) -> bool {
        let mut state = lock(&self.state);
        let until = now + life;
        for digest in digests {
            let is_full = state.unacknowledged.len() >= MAX_DIGESTS;
            if is_full && !state.unacknowledged.contains_key(digest) {
                state.overflow = Some(Overflow { since: now, until });
                break;
            }
            state.unacknowledged.insert(*digest, until);
        }
        !state.unacknowledged.is_empty() && !std::mem::replace(&mut state.has_task, true)
    }

    /// Records a change of this node that was committed by `now`, and the version that it made.
    /// `least_version` is `None` if the session has ended, or if the change's outcome is unknown.
    pub(crate) fn changed_here(
        &self,
        digests: &[TokenDigest],
        least_version: Option<i64>,
        now: Instant,
    ) {
        let mut state = lock(&self.state);
        if state.own.len() + digests.len() > MAX_DIGESTS {
            return;
        }
        for digest in digests {
            // The end of a session is final. Of two versions, the higher counts.
            let least_version = match state.own.get(digest) {
                Some(known) => known.least_version.zip(least_version).map(|(a, b)| a.max(b)),
                None => least_version,
            };
            state.own.insert(*digest, OwnChange { since: now, least_version });
        }
    }

    /// Drops the own changes that the journal shows now. Its read began at `began`. The changed set
    /// therefore has every change that was committed by then.
    pub(crate) fn journal_was_read(&self, began: Instant) {
        let mut state = lock(&self.state);
        state.own.retain(|_, own| own.since > began);
        state.overflow = state.overflow.filter(|overflow| overflow.since > began);
    }

    /// Returns the versions whose entries under this digest are rejected, if there are any.
    pub(crate) fn rejected_versions(
        &self,
        digest: &TokenDigest,
        now: Instant,
    ) -> Option<RejectedVersions> {
        let state = lock(&self.state);
        let all = state.unacknowledged.contains_key(digest)
            || state.overflow.is_some_and(|overflow| now < overflow.until);
        if all {
            return Some(RejectedVersions(None));
        }
        state.own.get(digest).map(|own| RejectedVersions(own.least_version))
    }

    /// Returns how many digests were not invalidated.
    pub(crate) fn len(&self) -> usize {
        lock(&self.state).unacknowledged.len()
    }

    /// Returns at most `limit` digests to invalidate again, after dropping those whose entries have
    /// expired. It begins after `skipped` others, and with the first one after the last. `None`:
    /// none is left, and the task must end.
    pub(crate) fn next_batch(
        &self,
        now: Instant,
        skipped: usize,
        limit: usize,
    ) -> Option<Vec<TokenDigest>> {
        let mut state = lock(&self.state);
        state.unacknowledged.retain(|_, until| *until > now);
        if state.unacknowledged.is_empty() {
            state.has_task = false;
            return None;
        }
        let count = state.unacknowledged.len();
        let digests = state.unacknowledged.keys().cycle().skip(skipped % count);
        Some(digests.take(limit.min(count)).copied().collect())
    }

    /// Removes digests that the cache has acknowledged, in an attempt that began at `began`. A
    /// digest that was added again since then stays, because the attempt may have come before its
    /// old entry.
    pub(crate) fn acknowledged(&self, digests: &[TokenDigest], began: Instant, life: Duration) {
        let mut state = lock(&self.state);
        for digest in digests {
            let until = state.unacknowledged.get(digest);
            if until.is_some_and(|until| *until <= began + life) {
                state.unacknowledged.remove(digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(302);
    const RETRY_BATCH: usize = 500;

    #[test]
    fn one_task_runs_until_no_digest_is_left() {
        let start = Instant::now();
        let pending = PendingInvalidations::default();
        let [a, b] = ["a", "b"].map(TokenDigest::of);
        assert!(pending.add(&[a], start, LIFE), "the first digest starts the task");
        assert!(!pending.add(&[b], start, LIFE), "the task runs");
        let batch = pending.next_batch(start, 0, RETRY_BATCH).unwrap();
        assert_eq!(batch.len(), 2);
        pending.acknowledged(&batch, start, LIFE);
        assert_eq!(pending.rejected_versions(&a, start), None);
        assert_eq!(pending.next_batch(start, 0, RETRY_BATCH), None);
        assert!(pending.add(&[a], start, LIFE), "the task had ended");
    }

    // Otherwise the digests of a server that is down would keep the others from being repeated.
    #[test]
    fn skipped_digests_come_after_all_others() {
        let start = Instant::now();
        let pending = PendingInvalidations::default();
        let all = ["a", "b", "c", "d", "e"].map(TokenDigest::of);
        assert!(pending.add(&all, start, LIFE));
        let batch = |skipped| pending.next_batch(start, skipped, 2).unwrap();
        let (first, second) = (batch(0), batch(2));
        assert!(first.iter().all(|digest| !second.contains(digest)));
        let third = batch(4);
        assert_eq!(third[1], first[0], "the first one follows the last");
        assert_eq!(batch(5), first);
        assert_eq!(pending.next_batch(start, 3, RETRY_BATCH).unwrap().len(), 5);
    }

    #[test]
    fn digest_whose_entry_has_expired_is_dropped() {
        let start = Instant::now();
        let pending = PendingInvalidations::default();
        let digest = TokenDigest::of("a");
        assert!(pending.add(&[digest], start, LIFE));
        assert_eq!(pending.next_batch(start + LIFE, 0, RETRY_BATCH), None);
    }

    #[test]
    fn digest_added_again_during_the_attempt_stays() {
        let start = Instant::now();
        let pending = PendingInvalidations::default();
        let digest = TokenDigest::of("a");
        assert!(pending.add(&[digest], start, LIFE));
        let later = start + Duration::from_secs(1);
        assert!(!pending.add(&[digest], later, LIFE));
        pending.acknowledged(&[digest], start, LIFE);
        assert_eq!(pending.rejected_versions(&digest, later), Some(RejectedVersions(None)));
    }

    #[test]
    fn own_change_rejects_older_entries_until_it_is_read() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let pending = PendingInvalidations::default();
        let [ended, updated, other] = ["a", "b", "c"].map(TokenDigest::of);
        pending.changed_here(&[ended], None, after(10));
        pending.changed_here(&[updated], Some(3), after(10));
        for read_began in [0, 9] {
            pending.journal_was_read(after(read_began));
            let rejects = |digest, version| {
                let versions = pending.rejected_versions(&digest, after(20));
                versions.is_some_and(|versions| versions.contains(version))
            };
            assert!(rejects(ended, 9));
            assert!(rejects(updated, 2) && !rejects(updated, 3));
            assert!(!rejects(other, 1));
        }
        assert_eq!(pending.len(), 0, "no invalidation is pending");
        pending.journal_was_read(after(10));
        assert_eq!(pending.rejected_versions(&ended, after(20)), None);
        assert_eq!(pending.rejected_versions(&updated, after(20)), None);
    }

    #[test]
    fn stronger_of_two_own_changes_counts() {
        let now = Instant::now();
        for (changes, expected) in [
            ([Some(3), Some(2)], Some(3)),
            ([Some(2), Some(3)], Some(3)),
            ([Some(3), None], None),
            ([None, Some(3)], None),
        ] {
            let pending = PendingInvalidations::default();
            let digest = TokenDigest::of("a");
            for least in changes {
                pending.changed_here(&[digest], least, now);
            }
            assert_eq!(pending.rejected_versions(&digest, now), Some(RejectedVersions(expected)));
        }
    }

    fn many(n: usize) -> Vec<TokenDigest> {
        (0..n).map(|n| TokenDigest::of(&n.to_string())).collect()
    }

    // Memory is bounded. No entry is served under a digest that could not be recorded.
    #[test]
    fn overflow_rejects_all_entries_until_journal_read_or_expiry() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let digests = many(MAX_DIGESTS + 2);
        let [unrecorded, unaffected] = [digests[MAX_DIGESTS + 1], TokenDigest::of("unaffected")];
        for journal_is_read in [false, true] {
            let pending = PendingInvalidations::default();
            assert!(pending.add(&digests[..MAX_DIGESTS], start, LIFE));
            assert_eq!(pending.rejected_versions(&unaffected, start), None);
            assert!(!pending.add(&digests[..1], start, LIFE), "the digest is recorded already");
            assert_eq!(pending.rejected_versions(&unaffected, start), None);

            assert!(!pending.add(&digests[MAX_DIGESTS..], later, LIFE));
            assert_eq!(pending.len(), MAX_DIGESTS);
            let everything = [digests[0], unrecorded, unaffected];
            for digest in everything {
                assert_eq!(pending.rejected_versions(&digest, later), Some(RejectedVersions(None)));
            }
            if journal_is_read {
                pending.journal_was_read(start);
                assert!(
                    pending.rejected_versions(&unrecorded, later).is_some(),
                    "the read began before the change"
                );
                pending.journal_was_read(later);
                assert_eq!(pending.rejected_versions(&unrecorded, later), None);
            } else {
                let nearly = later + LIFE - Duration::from_nanos(1);
                assert!(pending.rejected_versions(&unrecorded, nearly).is_some());
                assert_eq!(pending.rejected_versions(&unrecorded, later + LIFE), None);
            }
        }
    }

    #[test]
    fn own_changes_over_the_limit_are_left_to_the_journal() {
        let now = Instant::now();
        let pending = PendingInvalidations::default();
        let digests = many(MAX_DIGESTS + 1);
        pending.changed_here(&digests, None, now);
        assert_eq!(pending.rejected_versions(&digests[0], now), None);
        pending.changed_here(&digests[..MAX_DIGESTS], None, now);
        pending.changed_here(&digests[MAX_DIGESTS..], None, now);
        assert!(pending.rejected_versions(&digests[0], now).is_some());
        assert_eq!(pending.rejected_versions(&digests[MAX_DIGESTS], now), None);
    }
}
