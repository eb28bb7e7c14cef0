//! What this node knows of changes before its journal does, and where Redis has not acknowledged their UNLINK.
//!
//! A change that was committed while Redis could not be reached leaves its old copy there, and so does
//! a session of which Postgres said meanwhile that it has ended. The node that knows believes no hit
//! for these digests, and goes on unlinking them until Redis acknowledges it or every such copy has died
//! of age.
//!
//! Acknowledged or not, what this node changed itself it holds back until it has read of it in the journal: else an
//! old entry that somebody puts back into Redis would be served here for as long, by the very node that ended the session.
//!
//! It is this node's alone and is lost with it: what the answer of a change promised does not rest on it. And it only
//! ever takes belief away. So it may be coarse where there is too much to note: then no copy at all is believed, until the
//! journal was read, which knows of all these, or the copies have died. (Of its own changes, beyond that nothing is noted: Redis
//! has acknowledged those, and the journal tells of them within D.)

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::token::TokenDigest;

/// How often an unacknowledged invalidation is tried again.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(500);
/// How many digests go into one pipeline.
pub(crate) const BATCH: usize = 500;
/// How many digests are noted of either kind: some 10 MiB. To exceed it takes so many ended sessions asked for in one outage
/// of Redis, or changed between two reads of the journal.
const MOST: usize = 100_000;

/// The digests, each with the moment at which the last old copy has died.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    until: HashMap<TokenDigest, Instant>,
    /// Is a task at work on them?
    at_work: bool,
    /// Changed by this node, and not read of in the journal yet.
    own: HashMap<TokenDigest, Own>,
    overflow: Option<Overflow>,
}

/// There may be old copies that are not noted.
#[derive(Debug, Clone, Copy)]
struct Overflow {
    /// Their sessions had ended by then.
    since: Instant,
    /// They have died then.
    until: Instant,
}

/// A change of this node's.
#[derive(Debug, Clone, Copy)]
struct Own {
    /// It was committed by then.
    since: Instant,
    least: Least,
}

/// The least version of a session of which a copy may be believed; `None`: of none.
type Least = Option<i64>;

/// What is held against copies under one digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt(Least);

impl Doubt {
    /// Of a copy with this version?
    pub(crate) fn rules_out(self, version: i64) -> bool {
        self.0.is_none_or(|least| version < least)
    }
}

impl Pending {
    /// Adds digests whose copies live for `life` at most. True if the caller has to start the task that works on them.
    #[must_use]
    pub(crate) fn add(&self, digests: &[TokenDigest], now: Instant, life: Duration) -> bool {
        let mut state = self.lock();
        let until = now + life;
        for digest in digests {
            if state.until.len() >= MOST && !state.until.contains_key(digest) {
                state.overflow = Some(Overflow { since: now, until });
                break;
            }
            state.until.insert(*digest, until);
        }
        !state.until.is_empty() && !std::mem::replace(&mut state.at_work, true)
    }

    /// A change of this node's was committed by `now`. `least`: the version that it made; `None`: the session has
    /// ended, or nobody knows. Of too many at once the journal tells alone.
    pub(crate) fn changed(&self, digests: &[TokenDigest], least: Option<i64>, now: Instant) {
        let mut state = self.lock();
        if state.own.len() + digests.len() > MOST {
            return;
        }
        for digest in digests {
            let known = state.own.get(digest).copied();
            // An end stays one; of two versions the later counts.
            let least = known.map_or(least, |known| Some(known.least?.max(least?)));
            state.own.insert(*digest, Own { since: now, least });
        }
    }

    /// A read of the journal that began at `began` was taken in: the changed-set has what was committed by then.
    pub(crate) fn journal_was_read(&self, began: Instant) {
        let mut state = self.lock();
        state.own.retain(|_, own| own.since > began);
        state.overflow = state.overflow.filter(|overflow| overflow.since > began);
    }

    /// What is against believing a copy under this digest?
    pub(crate) fn doubt(&self, digest: &TokenDigest, now: Instant) -> Option<Doubt> {
        let state = self.lock();
        let none = state.until.contains_key(digest)
            || state.overflow.is_some_and(|overflow| now < overflow.until);
        if none {
            return Some(Doubt(None));
        }
        state.own.get(digest).map(|own| Doubt(own.least))
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().until.len()
    }

    /// The next ones to try, after forgetting those whose copies have died; `None` when nothing is
    /// left, and then the task must end.
    pub(crate) fn next_batch(&self, now: Instant) -> Option<Vec<TokenDigest>> {
        let mut state = self.lock();
        state.until.retain(|_, until| *until > now);
        if state.until.is_empty() {
            state.at_work = false;
            return None;
        }
        Some(state.until.keys().take(BATCH).copied().collect())
    }

    /// The cache acknowledged these, in a try that began at `began`. One that was added again since
    /// stays: its new old copy may have been put there after the try.
    pub(crate) fn acknowledged(&self, digests: &[TokenDigest], began: Instant, life: Duration) {
        let mut state = self.lock();
        for digest in digests {
            if state
                .until
                .get(digest)
                .is_some_and(|until| *until <= began + life)
            {
                state.until.remove(digest);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(302);

    #[test]
    fn one_task_works_until_nothing_is_left() {
        let start = Instant::now();
        let pending = Pending::default();
        let [a, b] = ["a", "b"].map(TokenDigest::of);
        assert!(pending.add(&[a], start, LIFE), "the first starts the task");
        assert!(!pending.add(&[b], start, LIFE), "the task is there");
        let batch = pending.next_batch(start).unwrap();
        assert_eq!(batch.len(), 2);
        pending.acknowledged(&batch, start, LIFE);
        assert_eq!(pending.doubt(&a, start), None);
        assert_eq!(pending.next_batch(start), None);
        assert!(pending.add(&[a], start, LIFE), "the task had ended");
    }

    #[test]
    fn what_has_died_of_age_is_forgotten() {
        let start = Instant::now();
        let pending = Pending::default();
        let digest = TokenDigest::of("a");
        assert!(pending.add(&[digest], start, LIFE));
        assert_eq!(pending.next_batch(start + LIFE), None);
    }

    #[test]
    fn one_that_was_added_during_the_try_stays() {
        let start = Instant::now();
        let pending = Pending::default();
        let digest = TokenDigest::of("a");
        assert!(pending.add(&[digest], start, LIFE));
        let later = start + Duration::from_secs(1);
        assert!(!pending.add(&[digest], later, LIFE));
        pending.acknowledged(&[digest], start, LIFE);
        assert_eq!(pending.doubt(&digest, later), Some(Doubt(None)));
    }
    #[test]
    fn what_this_node_changed_is_held_back_until_the_journal_was_read_after_it() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let pending = Pending::default();
        let [ended, updated, other] = ["a", "b", "c"].map(TokenDigest::of);
        pending.changed(&[ended], None, after(10));
        pending.changed(&[updated], Some(3), after(10));
        for read_began in [0, 9] {
            pending.journal_was_read(after(read_began));
            let rules_out = |digest, version| {
                let doubt = pending.doubt(&digest, after(20));
                doubt.is_some_and(|doubt| doubt.rules_out(version))
            };
            assert!(rules_out(ended, 9));
            assert!(rules_out(updated, 2) && !rules_out(updated, 3));
            assert!(!rules_out(other, 1));
        }
        assert_eq!(pending.len(), 0, "nothing is to be unlinked");
        pending.journal_was_read(after(10));
        assert_eq!(pending.doubt(&ended, after(20)), None);
        assert_eq!(pending.doubt(&updated, after(20)), None);
    }

    #[test]
    fn of_two_changes_the_stronger_is_held() {
        let now = Instant::now();
        for (changes, expected) in [
            ([Some(3), Some(2)], Some(3)),
            ([Some(2), Some(3)], Some(3)),
            ([Some(3), None], None),
            ([None, Some(3)], None),
        ] {
            let pending = Pending::default();
            let digest = TokenDigest::of("a");
            for least in changes {
                pending.changed(&[digest], least, now);
            }
            assert_eq!(pending.doubt(&digest, now), Some(Doubt(expected)));
        }
    }

    fn many(n: usize) -> Vec<TokenDigest> {
        (0..n).map(|n| TokenDigest::of(&n.to_string())).collect()
    }

    /// Memory is bounded, and nothing that could not be noted is believed.
    #[test]
    fn over_the_bound_nothing_is_believed_until_the_journal_knows_or_all_has_died() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let digests = many(MOST + 2);
        let [not_noted, innocent] = [digests[MOST + 1], TokenDigest::of("innocent")];
        for journal_is_read in [false, true] {
            let pending = Pending::default();
            assert!(pending.add(&digests[..MOST], start, LIFE));
            assert_eq!(pending.doubt(&innocent, start), None);
            assert!(!pending.add(&digests[..1], start, LIFE), "known already");
            assert_eq!(pending.doubt(&innocent, start), None);

            assert!(!pending.add(&digests[MOST..], later, LIFE));
            assert_eq!(pending.len(), MOST);
            let everything = [digests[0], not_noted, innocent];
            for digest in everything {
                assert_eq!(pending.doubt(&digest, later), Some(Doubt(None)));
            }
            if journal_is_read {
                pending.journal_was_read(start);
                assert!(
                    pending.doubt(&not_noted, later).is_some(),
                    "it knew nothing"
                );
                pending.journal_was_read(later);
                assert_eq!(pending.doubt(&not_noted, later), None);
            } else {
                let nearly = later + LIFE - Duration::from_nanos(1);
                assert!(pending.doubt(&not_noted, nearly).is_some());
                assert_eq!(pending.doubt(&not_noted, later + LIFE), None);
            }
        }
    }

    #[test]
    fn of_too_many_changes_at_once_the_journal_tells_alone() {
        let now = Instant::now();
        let pending = Pending::default();
        let digests = many(MOST + 1);
        pending.changed(&digests, None, now);
        assert_eq!(pending.doubt(&digests[0], now), None);
        pending.changed(&digests[..MOST], None, now);
        pending.changed(&digests[MOST..], None, now);
        assert!(pending.doubt(&digests[0], now).is_some());
        assert_eq!(pending.doubt(&digests[MOST], now), None);
    }
}
