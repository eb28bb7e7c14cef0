//! What a server refuses although it answers (out of memory, a missing right, read-only): one event when that begins,
//! one when it is over, a count for the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Succeeding after this long without a refusal is its end: as long as the breaker looks back. Where some are refused
/// and others not (a node of a cluster has half of the keys), it goes on.
const CALM: Duration = Duration::from_secs(10);
/// So many are told apart. Their texts are few; that nobody can make more of them must not rest on a server's words.
const MOST: usize = 20;

/// What was asked for, as far as one may be refused and another not. A refusal is over for each when it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Looking a copy up.
    Get,
    /// A lease, a fence.
    Set,
    /// Putting a copy in.
    Fill,
    /// Removing a copy.
    Unlink,
    /// An entry that can't be one: that others can says nothing.
    Entry,
    /// A login.
    Create,
    /// Ending, updating, rotating.
    Change,
    /// Noting a use.
    Touch,
    /// A user's sessions, or the moment of a login.
    Ask,
}

/// The refusals that are going on.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    ongoing: Mutex<Vec<Refusal>>,
    /// Is there one that may end? Spares the lock on the way of every success.
    any: AtomicBool,
}

#[derive(Debug)]
struct Refusal {
    why: String,
    times: u64,
    /// What was refused and has not succeeded since, and when it was refused last.
    open: Vec<(Work, Instant)>,
}

/// A refusal that is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) why: String,
    /// How often it was met.
    pub(crate) times: u64,
}

impl Refusals {
    /// True where this is its beginning. `begins`: may it be one?
    pub(crate) fn refused(&self, now: Instant, work: Work, why: &str, begins: bool) -> bool {
        let mut ongoing = self.lock();
        if let Some(known) = ongoing.iter_mut().find(|refusal| refusal.why == why) {
            known.times += 1;
            known.open.retain(|(open, _)| *open != work);
            known.open.push((work, now));
            self.look(&ongoing);
            return false;
        }
        if !begins || ongoing.len() == MOST {
            return false;
        }
        ongoing.push(Refusal {
            why: why.to_owned(),
            times: 1,
            open: vec![(work, now)],
        });
        self.look(&ongoing);
        true
    }

    /// This succeeded. The answer: what is over by that.
    pub(crate) fn succeeded(&self, now: Instant, work: Work) -> Vec<Over> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut ongoing = self.lock();
        for refusal in ongoing.iter_mut() {
            refusal.open.retain(|(open, last)| {
                *open != work || now.saturating_duration_since(*last) < CALM
            });
        }
        let over = ongoing
            .extract_if(.., |refusal| refusal.open.is_empty())
            .map(|Refusal { why, times, .. }| Over { why, times })
            .collect();
        self.look(&ongoing);
        over
    }

    fn look(&self, ongoing: &[Refusal]) {
        let may_end = |refusal: &Refusal| refusal.open.iter().any(|(work, _)| *work != Work::Entry);
        self.any
            .store(ongoing.iter().any(may_end), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Refusal>> {
        self.ongoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_begins_once_and_ends_once_when_all_that_was_refused_succeeds() {
        let start = Instant::now();
        let refusals = Refusals::default();
        let refused = |now, work| refusals.refused(now, work, "OOM", true);
        assert_eq!(refusals.succeeded(start, Work::Set), [], "there is none");
        assert!(refused(start, Work::Set));
        assert!(!refused(start, Work::Fill));
        // For ten minutes some get through, some don't; quiet minutes are no end.
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_secs(6);
            assert!(!refused(now, Work::Set));
            assert_eq!(refusals.succeeded(now, Work::Set), []);
        }
        now += Duration::from_secs(300);
        assert!(!refused(now, Work::Set));
        now += CALM;
        assert_eq!(refusals.succeeded(now, Work::Get), [], "never refused");
        assert_eq!(refusals.succeeded(now, Work::Set), [], "one of two");
        let over = Over {
            why: "OOM".to_owned(),
            times: 103,
        };
        assert_eq!(refusals.succeeded(now, Work::Fill), [over]);
        assert_eq!(refusals.succeeded(now, Work::Fill), [], "once");
        assert!(refused(now, Work::Set), "the next one");
    }

    #[test]
    fn each_cause_is_a_refusal_of_its_own_and_they_are_bounded() {
        let now = Instant::now();
        let refusals = Refusals::default();
        assert!(!refusals.refused(now, Work::Set, "no beginning", false));
        for n in 0..100 {
            let begins = refusals.refused(now, Work::Set, &n.to_string(), true);
            assert_eq!(begins, n < MOST, "{n}");
        }
        assert_eq!(refusals.succeeded(now + CALM, Work::Set).len(), MOST);
        assert!(refusals.refused(now, Work::Set, "as before", true));
    }
}
