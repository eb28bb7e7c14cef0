//! Invalidations that the cache has not acknowledged yet.
//!
//! A change that was committed while Redis could not be reached leaves its old copy there, and so does
//! a session of which Postgres said meanwhile that it has ended. The node that knows believes no hit
//! for these digests, and goes on unlinking them until Redis acknowledges it or every such copy has died
//! of age. It is this node's alone and is lost with it: what the answer of a change promised does not
//! rest on it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::token::TokenDigest;

/// How often an unacknowledged invalidation is tried again.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(500);
/// How many digests go into one pipeline.
pub(crate) const BATCH: usize = 500;

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
}

impl Pending {
    /// Adds digests. True if the caller has to start the task that works on them.
    #[must_use]
    pub(crate) fn add(&self, digests: &[TokenDigest], until: Instant) -> bool {
        let mut state = self.lock();
        state
            .until
            .extend(digests.iter().map(|digest| (*digest, until)));
        !state.until.is_empty() && !std::mem::replace(&mut state.at_work, true)
    }

    /// Is the cached copy of this digest not to be believed?
    pub(crate) fn contains(&self, digest: &TokenDigest) -> bool {
        self.lock().until.contains_key(digest)
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
        assert!(pending.add(&[a], start + LIFE), "the first starts the task");
        assert!(!pending.add(&[b], start + LIFE), "the task is there");
        let batch = pending.next_batch(start).unwrap();
        assert_eq!(batch.len(), 2);
        pending.acknowledged(&batch, start, LIFE);
        assert!(!pending.contains(&a));
        assert_eq!(pending.next_batch(start), None);
        assert!(pending.add(&[a], start + LIFE), "the task had ended");
    }

    #[test]
    fn what_has_died_of_age_is_forgotten() {
        let start = Instant::now();
        let pending = Pending::default();
        let digest = TokenDigest::of("a");
        assert!(pending.add(&[digest], start + LIFE));
        assert_eq!(pending.next_batch(start + LIFE), None);
    }

    #[test]
    fn one_that_was_added_during_the_try_stays() {
        let start = Instant::now();
        let pending = Pending::default();
        let digest = TokenDigest::of("a");
        assert!(pending.add(&[digest], start + LIFE));
        let later = start + Duration::from_secs(1);
        assert!(!pending.add(&[digest], later + LIFE));
        pending.acknowledged(&[digest], start, LIFE);
        assert!(pending.contains(&digest));
    }
}
