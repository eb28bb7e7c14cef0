//! The errors of the last minute, for the health document.
//!
//! Every decision is a function of its arguments, the time included.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::lock::lock;

/// The time for which an error is reported.
const REPORTED_FOR: Duration = Duration::from_secs(60);
/// The limit of distinct errors that are reported.
pub(crate) const MAX_ERRORS: usize = 10;

/// The errors of the last minute, newest first. Each cause appears once, with its number of
/// occurrences.
#[derive(Debug, Default)]
pub(crate) struct RecentErrors(Mutex<VecDeque<RecentError>>);

/// The server that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The session cache.
    Cache,
    /// The session store.
    Store,
}

/// The kind of cause that an error's text reveals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The text names the cause.
    Named,
    /// The server can't be reached. One outage causes several texts, and the newest is reported.
    Unreachable,
    /// The text names no cause, because a caller stopped waiting or the server was not queried. It
    /// is reported only if no cause is known.
    Unknown,
}

/// One error, and its number of occurrences.
#[derive(Debug, Clone)]
pub(crate) struct RecentError {
    pub(crate) origin: Origin,
    pub(crate) cause: Cause,
    pub(crate) text: String,
    /// The background work that reported it. Requests are not named.
    background_work: Vec<&'static str>,
    times: u64,
    last: Instant,
}

impl RecentErrors {
    /// Records an error of a request, or of the background work `during`. Returns whether it is new
    /// in the last minute.
    pub(crate) fn record(
        &self,
        during: Option<&'static str>,
        now: Instant,
        origin: Origin,
        cause: Cause,
        text: String,
    ) -> bool {
        let mut errors = lock(&self.0);
        // The count of an error that returns after a minute begins at one again.
        errors.retain(|old| is_recent(old, now));
        let has_cause = |old: &RecentError| old.origin == origin && old.cause != Cause::Unknown;
        if cause == Cause::Unknown && errors.iter().any(has_cause) {
            return false;
        }
        let same_text = |old: &RecentError| old.origin == origin && old.text == text;
        let same_cause = |old: &RecentError| {
            old.origin == origin
                && (old.cause == Cause::Unknown
                    || old.cause == cause && cause == Cause::Unreachable)
        };
        let known =
            errors.iter().position(same_text).or_else(|| errors.iter().position(same_cause));
        let known = known.and_then(|at| errors.remove(at));
        let is_new = known.is_none();
        let (mut background_work, times) =
            known.map_or((Vec::new(), 0), |old| (old.background_work, old.times));
        background_work.extend(during.filter(|during| !background_work.contains(during)));
        let times = times + 1;
        errors.push_front(RecentError { origin, cause, text, background_work, times, last: now });
        errors.truncate(MAX_ERRORS);
        is_new
    }

    /// Returns the errors of the last minute, newest first.
    pub(crate) fn report(&self, now: Instant) -> Vec<ReportedError> {
        let errors = lock(&self.0);
        let recent = errors.iter().filter(|error| is_recent(error, now));
        let report = |error: &RecentError| ReportedError {
            age: now.saturating_duration_since(error.last),
            error: error.clone(),
        };
        recent.map(report).collect()
    }
}

/// Returns whether the error is still reported.
fn is_recent(error: &RecentError, now: Instant) -> bool {
    now.saturating_duration_since(error.last) < REPORTED_FOR
}

/// An error with its age at the time of the report. It displays as one line of the health document.
#[derive(Debug, Clone)]
pub(crate) struct ReportedError {
    pub(crate) error: RecentError,
    age: Duration,
}

impl fmt::Display for ReportedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecentError { origin, text, background_work, times, .. } = &self.error;
        write!(f, "{origin}: {text} (")?;
        for work in background_work {
            write!(f, "{work}; ")?;
        }
        let age = self.age.as_secs();
        match times {
            1 => write!(f, "{age} s ago)"),
            times => write!(f, "{times} times, last {age} s ago)"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cache => "session cache",
            Self::Store => "session store",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(errors: &RecentErrors, now: Instant) -> Vec<String> {
        errors.report(now).iter().map(ReportedError::to_string).collect()
    }

    #[test]
    fn repeated_error_is_reported_once_and_for_a_minute() {
        let start = Instant::now();
        let errors = RecentErrors::default();
        let record = |now, text: &str| {
            errors.record(None, now, Origin::Cache, Cause::Named, text.to_owned())
        };
        record(start, "a");
        record(start, "b");
        record(start + Duration::from_secs(2), "a");
        assert_eq!(
            report(&errors, start + Duration::from_secs(5)),
            ["session cache: a (2 times, last 3 s ago)", "session cache: b (5 s ago)"]
        );
        let later = start + Duration::from_secs(2) + REPORTED_FOR;
        assert_eq!(report(&errors, later), Vec::<String>::new());
        record(later, "a");
        assert_eq!(report(&errors, later), ["session cache: a (0 s ago)"]);
    }

    #[test]
    fn outage_with_several_texts_is_one_error() {
        use Cause::{Named, Unknown, Unreachable};
        let now = Instant::now();
        let errors = RecentErrors::default();
        let record = |during, origin, cause, text: &str| {
            errors.record(during, now, origin, cause, text.to_owned())
        };
        record(None, Origin::Store, Unknown, "not queried");
        assert_eq!(report(&errors, now), ["session store: not queried (0 s ago)"]);
        record(None, Origin::Store, Unreachable, "it was lost");
        record(None, Origin::Store, Unreachable, "it is down");
        record(None, Origin::Store, Unknown, "not queried");
        record(Some("reading"), Origin::Store, Unreachable, "it is down");
        record(Some("reading"), Origin::Store, Unreachable, "it is down");
        // Another origin and another cause are other errors.
        record(None, Origin::Cache, Unreachable, "it is down");
        record(None, Origin::Store, Named, "a lock was held");
        assert_eq!(
            report(&errors, now),
            [
                "session store: a lock was held (0 s ago)",
                "session cache: it is down (0 s ago)",
                "session store: it is down (reading; 5 times, last 0 s ago)",
            ]
        );
    }

    #[test]
    fn eleventh_error_drops_the_oldest() {
        let now = Instant::now();
        let errors = RecentErrors::default();
        for i in 0..30 {
            errors.record(None, now, Origin::Cache, Cause::Named, format!("{i}"));
        }
        let report = report(&errors, now);
        assert_eq!(report.len(), 10);
        assert!(report[0].starts_with("session cache: 29"), "{}", report[0]);
    }
}
