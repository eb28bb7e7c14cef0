//! Moments that two processes of one machine can compare.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A reading of the machine's monotonic clock, in nanoseconds. All processes of a machine share
/// that clock, so a COMMIT in one process and a response in another can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Moment(u64);

impl Moment {
    /// The earliest moment.
    #[cfg(test)]
    pub(crate) const BOOT: Self = Self(0);

    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        let part = |part: i64| u64::try_from(part).unwrap_or_default();
        Self(part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec))
    }

    /// Returns how long after `earlier` this is, or zero if it is not after it.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn plus(self, span: Duration) -> Self {
        self.0.saturating_add(nanos(span)).into()
    }

    pub(crate) fn minus(self, span: Duration) -> Self {
        self.0.saturating_sub(nanos(span)).into()
    }
}

impl From<u64> for Moment {
    fn from(nanos: u64) -> Self {
        Self(nanos)
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_reading_is_not_earlier() {
        let first = Moment::now();
        let second = Moment::now();
        assert!(second >= first && first > Moment::BOOT);
    }

    #[test]
    fn spans_are_added_and_never_negative() {
        let (early, second) = (Moment::from(5), Duration::from_secs(1));
        assert_eq!(early.plus(second).since(early), second);
        assert_eq!(early.since(early.plus(second)), Duration::ZERO);
        assert_eq!(early.plus(second).minus(second), early);
        assert_eq!(early.minus(second), Moment::BOOT);
    }
}
