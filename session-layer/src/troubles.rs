//! What goes wrong: in the health document for a minute, in the log by one event when it begins and one when it is
//! over.
//!
//! All of it is decided from what is told, the time included; `troubles/noted.rs` tells it, and logs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

mod noted;
mod refusals;

pub(crate) use self::refusals::{Refusals, Work};

/// How long a trouble is told about.
const RECENT: Duration = Duration::from_secs(60);
/// How many different ones are told about.
const MOST_TROUBLES: usize = 10;

/// The troubles of the last minute, newest first: each cause once, however often it came and whatever met it.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    recent: Mutex<VecDeque<Trouble>>,
    pub(crate) refusals: Refusals,
}

/// Whose trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Cache,
    Store,
}

/// What a text says about the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A cause of its own: the text is all of it.
    Own,
    /// It cannot be reached, which shows in several texts one after the other: the newest is told.
    Away,
    /// None: it was not waited for any longer, or not asked. Told only where nothing else is.
    Unsaid,
}

/// One trouble.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) of: Of,
    pub(crate) cause: Cause,
    pub(crate) text: String,
    /// What met it, beside requests.
    doing: Vec<&'static str>,
    times: u64,
    last: Instant,
}

impl Troubles {
    pub(crate) fn note(&self, now: Instant, of: Of, cause: Cause, text: String) {
        self.note_while(None, now, of, cause, text);
    }

    /// Met in the background, by this.
    pub(crate) fn note_while(
        &self,
        doing: Option<&'static str>,
        now: Instant,
        of: Of,
        cause: Cause,
        text: String,
    ) {
        let mut kept = self.lock();
        // What comes back after a quiet minute begins anew.
        kept.retain(|old| is_recent(old, now));
        let is_said = |old: &Trouble| old.of == of && old.cause != Cause::Unsaid;
        if cause == Cause::Unsaid && kept.iter().any(is_said) {
            return;
        }
        let same_text = |old: &Trouble| old.of == of && old.text == text;
        let same_cause = |old: &Trouble| {
            old.of == of
                && (old.cause == Cause::Unsaid || old.cause == cause && cause == Cause::Away)
        };
        let known = kept
            .iter()
            .position(same_text)
            .or_else(|| kept.iter().position(same_cause));
        let known = known.and_then(|at| kept.remove(at));
        let (mut met_by, times) = known.map_or((Vec::new(), 0), |old| (old.doing, old.times));
        met_by.extend(doing.filter(|doing| !met_by.contains(doing)));
        kept.push_front(Trouble {
            of,
            cause,
            text,
            doing: met_by,
            times: times + 1,
            last: now,
        });
        kept.truncate(MOST_TROUBLES);
    }

    /// What is to be told now.
    pub(crate) fn recent(&self, now: Instant) -> Vec<Told> {
        let kept = self.lock();
        let recent = kept.iter().filter(|trouble| is_recent(trouble, now));
        recent
            .map(|trouble| Told {
                age: now.saturating_duration_since(trouble.last),
                trouble: trouble.clone(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Trouble>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_recent(trouble: &Trouble, now: Instant) -> bool {
    now.saturating_duration_since(trouble.last) < RECENT
}

/// A trouble as it is told: what it is, who met it, how often, and how long ago.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) trouble: Trouble,
    age: Duration,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble {
            of,
            text,
            doing,
            times,
            ..
        } = &self.trouble;
        write!(f, "{of}: {text} (")?;
        for doing in doing {
            write!(f, "{doing}; ")?;
        }
        let age = self.age.as_secs();
        match times {
            1 => write!(f, "{age} s ago)"),
            times => write!(f, "{times} times, last {age} s ago)"),
        }
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cache => "session cache",
            Self::Store => "session store",
        })
    }
}

/// Is something failing? For one log event at the beginning and one at the end, however many requests meet
/// it and however many get through in between.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// When it failed last; `None`: it is over.
    last: Mutex<Option<Instant>>,
    /// Spares the lock on the way of every success.
    is_on: AtomicBool,
}

/// Without a failure for this long, an answer is the end of an outage.
const CALM: Duration = Duration::from_secs(1);
/// Without a failure for this long, it is asked whether it is over: requests may all be answered from the cache by
/// then. Not sooner, for a question that is easier than theirs may be answered all the while.
const QUIET: Duration = Duration::from_secs(10);

impl Outage {
    /// True where this is its beginning.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_on.store(true, Ordering::Relaxed);
        last.replace(now).is_none()
    }

    /// True where this is its end.
    pub(crate) fn succeeded(&self, now: Instant) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let over = last.is_some_and(|last| now.saturating_duration_since(last) >= CALM);
        if over {
            *last = None;
            self.is_on.store(false, Ordering::Relaxed);
        }
        over
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Is it on, and has nobody met it for so long that it may be over?
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| now.saturating_duration_since(last) >= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(troubles: &Troubles, now: Instant) -> Vec<String> {
        troubles.recent(now).iter().map(Told::to_string).collect()
    }

    #[test]
    fn troubles_are_told_newest_first_once_and_for_a_minute() {
        let start = Instant::now();
        let troubles = Troubles::default();
        let note = |now, text: &str| troubles.note(now, Of::Cache, Cause::Own, text.to_owned());
        note(start, "a");
        note(start, "b");
        note(start + Duration::from_secs(2), "a");
        assert_eq!(
            told(&troubles, start + Duration::from_secs(5)),
            [
                "session cache: a (2 times, last 3 s ago)",
                "session cache: b (5 s ago)"
            ]
        );
        let later = start + Duration::from_secs(2) + RECENT;
        assert_eq!(told(&troubles, later), Vec::<String>::new());
        note(later, "a");
        assert_eq!(told(&troubles, later), ["session cache: a (0 s ago)"]);
    }

    #[test]
    fn one_outage_is_one_trouble_whatever_shows_it_and_whoever_meets_it() {
        use Cause::{Away, Own, Unsaid};
        let now = Instant::now();
        let troubles = Troubles::default();
        let note = |cause, text: &str| troubles.note(now, Of::Store, cause, text.to_owned());
        note(Unsaid, "not asked");
        assert_eq!(told(&troubles, now), ["session store: not asked (0 s ago)"]);
        note(Away, "it was lost");
        note(Away, "it refuses");
        note(Unsaid, "not asked");
        let refuses = "it refuses".to_owned();
        troubles.note_while(Some("reading"), now, Of::Store, Away, refuses.clone());
        troubles.note_while(Some("reading"), now, Of::Store, Away, refuses.clone());
        // Of another, and of another cause.
        troubles.note(now, Of::Cache, Away, refuses);
        note(Own, "a lock was held");
        assert_eq!(
            told(&troubles, now),
            [
                "session store: a lock was held (0 s ago)",
                "session cache: it refuses (0 s ago)",
                "session store: it refuses (reading; 5 times, last 0 s ago)",
            ]
        );
    }

    #[test]
    fn an_outage_begins_once_and_ends_once() {
        let start = Instant::now();
        let outage = Outage::default();
        assert!(!outage.succeeded(start), "there is none");
        assert!(outage.failed(start));
        // Some get through, some don't.
        for ms in (0..5_000).step_by(500) {
            let now = start + Duration::from_millis(ms);
            assert!(!outage.failed(now) && !outage.succeeded(now));
        }
        let over = start + Duration::from_millis(5_500);
        assert!(outage.succeeded(over) && !outage.succeeded(over));
        assert!(!outage.is_quiet(over + QUIET), "there is none");
        assert!(outage.failed(over), "the next one");
        let nearly = over + QUIET - Duration::from_millis(1);
        assert!(!outage.is_quiet(nearly) && outage.is_quiet(over + QUIET));
    }

    #[test]
    fn at_most_ten_troubles_are_kept() {
        let now = Instant::now();
        let troubles = Troubles::default();
        for i in 0..30 {
            troubles.note(now, Of::Cache, Cause::Own, format!("{i}"));
        }
        let told = told(&troubles, now);
        assert_eq!(told.len(), 10);
        assert!(told[0].starts_with("session cache: 29"), "{}", told[0]);
    }
}
