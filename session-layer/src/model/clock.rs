//! Time as values. Decisions take a [`Timestamp`] or an [`Instant`] as a parameter. Only
//! [`Timestamp::now`] reads the wall clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The longest TTL, interval or deadline that a setting allows. It can be multiplied, and added to
/// any `Instant`, and fits into Postgres' timeouts, which end after 24 days.
pub(crate) const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The replacement for `Duration::MAX` ("for ever") in a sum with an `Instant`: 30 years.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A moment in UTC, to the microsecond (the resolution of Postgres).
///
/// It prints, serializes and parses as RFC 3339: `2026-11-22T12:00:00.5Z`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates a timestamp from microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Reads this machine's wall clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Returns the moment that is `by` later. Saturates at the last moment.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// Returns the time from `earlier` until this moment. Returns zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(micros(since)),
            Err(before) => Self(-micros(before.duration())),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        let span = Duration::from_micros(at.0.unsigned_abs());
        let moved =
            if at.0 < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) };
        moved.unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 3339 ends with the year 9999. Later moments print as its last second.
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok());
        f.write_str(at.as_deref().unwrap_or("9999-12-31T23:59:59Z"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An error for a text that is no moment of RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a moment of RFC 3339: pass one such as 2026-11-22T12:00:00Z")]
pub struct ParseTimestampError(#[source] time::error::Parse);

impl std::str::FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(ParseTimestampError)?;
        Ok(Self(i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_prints_and_parses_as_rfc_3339() {
        let at: Timestamp = "2026-11-22T12:00:00.25Z".parse().unwrap();
        assert_eq!(at.to_string(), "2026-11-22T12:00:00.25Z");
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_micros(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn span_beyond_the_range_saturates() {
        let early = Timestamp::from_micros(1);
        assert_eq!(early.since(early.after(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(early.after(Duration::MAX), Timestamp::from_micros(i64::MAX));
    }

    #[test]
    fn timestamp_converts_to_system_time_and_back() {
        for micros in [-1_500_000, 0, 1_700_000_000_000_000] {
            let at = Timestamp::from_micros(micros);
            assert_eq!(Timestamp::from(SystemTime::from(at)), at);
        }
    }
}
