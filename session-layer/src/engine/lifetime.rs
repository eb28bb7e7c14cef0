//! How long an entry may be served, and when a session is touched and its cookie renewed.
//!
//! Every decision is a function of its arguments, the time included.

use std::time::Duration;

use crate::model::clock::Timestamp;
use crate::model::session::Session;
use crate::model::token::TokenDigest;

/// Returns the interval at which the use of a session is recorded: a minute, or a quarter of the
/// idle timeout if that is shorter.
pub(crate) fn touch_granularity(idle_timeout: Option<Duration>) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    idle_timeout.map_or(MINUTE, |idle| MINUTE.min(idle / 4))
}

/// How long an entry is served if its session could not be touched: 1 s. Without such an entry,
/// each request of the session would read and touch it in a store that may be failing.
const TOUCH_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a touch every response may renew the cookie: 15 s.
///
/// The response to the request that made the touch may have been lost, or may carry no cookie. The
/// other requests of a page, which come close together, therefore renew it too. Without a limit,
/// every response would carry the cookie.
const RENEWAL_WINDOW: Duration = Duration::from_secs(15);

/// Returns whether a response at `now` renews the session's cookie. It does if a touch is due,
/// whether or not it succeeds, or was made within [`RENEWAL_WINDOW`]. The cookie states when the
/// session expires without use, and a touch moves that time.
pub(crate) fn renewal_is_due(now: Timestamp, session: &Session) -> bool {
    if !is_renewable(session) {
        return false;
    }
    let idle_timeout = session.idle_timeout();
    let unused = now.since(session.last_seen_at());
    // Before the first touch, the client has the cookie that the login issued.
    let touched = session.last_seen_at() > session.created_at();
    (touched && unused < RENEWAL_WINDOW) || unused >= touch_granularity(idle_timeout)
}

/// Returns whether the use of the session moves the expiry of its cookie.
fn is_renewable(session: &Session) -> bool {
    session.is_persistent() && session.idle_timeout().is_some()
}

/// Returns how long an entry that was read at `now` may be served. `None`: no entry is stored.
///
/// The lifetime is the TTL less jitter. It ends earlier with the session, with the grace of a
/// rotation, or when the next touch that must precede a response is due. If that touch failed
/// (`touched` is `false`), the lifetime is short. There is none if the session expires within one
/// touch interval.
pub(crate) fn lifetime(
    now: Timestamp,
    ttl: Duration,
    digest: TokenDigest,
    session: &Session,
    previous_until: Option<Timestamp>,
    touched: bool,
) -> Option<Duration> {
    let mut lifetime = less_jitter(ttl, digest).min(session.expires_at().since(now));
    if let Some(until) = previous_until {
        // An entry does not record that its token was replaced. A hit would renew the cookie.
        if is_renewable(session) {
            return None;
        }
        lifetime = lifetime.min(until.since(now));
    }
    if let Some(idle) = session.idle_timeout() {
        let granularity = touch_granularity(Some(idle));
        let seen = session.last_seen_at();
        lifetime = lifetime.min(if touched {
            seen.after(granularity).since(now)
        } else {
            let safe = seen.after(idle - granularity).since(now);
            safe.min(TOUCH_RETRY_INTERVAL).min(granularity)
        });
    }
    // Redis counts whole milliseconds.
    (lifetime >= Duration::from_millis(1)).then_some(lifetime)
}

/// Returns the TTL less up to a tenth. Entries that were filled together, after a flush or a
/// restart, therefore do not expire together. The digest is random enough, and makes the result
/// repeatable.
fn less_jitter(ttl: Duration, digest: TokenDigest) -> Duration {
    let [a, b, ..] = *digest.as_bytes();
    ttl - ttl / 10 * u32::from(u16::from_be_bytes([a, b])) / 65_536
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::{SessionId, SessionParts};

    const READ_AT: Timestamp = Timestamp::from_micros(1_000_000_000_000);
    const ENTRY_TTL: Duration = Duration::from_secs(300);

    fn session(
        expires_in: Duration,
        idle_timeout: Option<Duration>,
        seen_ago: Duration,
    ) -> Session {
        let seen = READ_AT.as_micros() - i64::try_from(seen_ago.as_micros()).unwrap();
        SessionParts {
            last_seen_at: Timestamp::from_micros(seen),
            expires_at: READ_AT.after(expires_in),
            idle_timeout,
            ..SessionParts::new(SessionId::from_bytes([1; 16]), "alice", READ_AT)
        }
        .into()
    }

    #[test]
    fn entry_never_outlives_its_session() {
        let digest = TokenDigest::from_bytes([0; 32]); // no jitter
        let secs = Duration::from_secs;
        let life = |session: &Session, previous| {
            lifetime(READ_AT, ENTRY_TTL, digest, session, previous, true)
        };
        let day = secs(86_400);
        assert_eq!(life(&session(day, None, secs(0)), None), Some(ENTRY_TTL));
        assert_eq!(life(&session(secs(7), None, secs(0)), None), Some(secs(7)));
        assert_eq!(life(&session(day, None, secs(0)), Some(READ_AT.after(secs(5)))), Some(secs(5)));
        assert_eq!(life(&session(day, None, secs(0)), Some(READ_AT)), None, "the grace is over");
        // An idle timeout of 40 s is touched every 10 s. This session was touched 4 s ago.
        assert_eq!(life(&session(day, Some(secs(40)), secs(4)), None), Some(secs(6)));
        assert_eq!(life(&session(day, Some(secs(3600)), secs(0)), None), Some(secs(60)));
    }

    #[test]
    fn replaced_token_with_renewable_cookie_gets_no_entry() {
        let digest = TokenDigest::from_bytes([0; 32]); // no jitter
        let secs = Duration::from_secs;
        for (persistent, idle, expected) in [
            (false, None, Some(secs(5))),
            (true, None, Some(secs(5))),
            (false, Some(secs(3600)), Some(secs(5))),
            (true, Some(secs(3600)), None),
        ] {
            let mut parts = session(secs(86_400), idle, secs(0)).parts();
            parts.persistent = persistent;
            let until = Some(READ_AT.after(secs(5)));
            let life = lifetime(READ_AT, ENTRY_TTL, digest, &parts.into(), until, true);
            assert_eq!(life, expected, "{persistent} {idle:?}");
        }
    }

    #[test]
    fn due_or_recent_touch_renews_the_cookie() {
        let secs = Duration::from_secs;
        let created = READ_AT;
        let due = |persistent, idle: Option<u64>, used_s: u64, unused_ms: u64| {
            let seen = created.after(secs(used_s));
            let mut parts = session(secs(86_400), idle.map(secs), secs(0)).parts();
            (parts.last_seen_at, parts.persistent) = (seen, persistent);
            renewal_is_due(seen.after(Duration::from_millis(unused_ms)), &parts.into())
        };
        for (unused_ms, expected) in [
            (0, true),
            (14_999, true),
            (15_000, false),
            (59_999, false),
            // A touch is due. The cookie is renewed even if it fails.
            (60_000, true),
            (600_000, true),
        ] {
            assert_eq!(due(true, Some(3_600), 100, unused_ms), expected, "{unused_ms}");
            // Without persistence or without an idle timeout, the expiry of the cookie is fixed.
            assert!(!due(false, Some(3_600), 100, unused_ms));
            assert!(!due(true, None, 100, unused_ms));
        }
        // The session is touched every 10 s. Every response between two touches renews the cookie.
        for unused_ms in [0, 5_000, 9_999, 10_000] {
            assert!(due(true, Some(40), 100, unused_ms));
        }
        // The session has not been touched since its login.
        for (unused_ms, expected) in [(0, false), (9_999, false), (10_000, true)] {
            assert_eq!(due(true, Some(40), 0, unused_ms), expected);
        }
    }

    #[test]
    fn entry_of_a_failed_touch_is_short() {
        let digest = TokenDigest::from_bytes([0; 32]); // no jitter
        let life = |idle: u64, seen_ago: u64| {
            let idle = Duration::from_millis(idle);
            let session = session(ENTRY_TTL * 9, Some(idle), Duration::from_millis(seen_ago));
            lifetime(READ_AT, ENTRY_TTL, digest, &session, None, false).map(|life| life.as_millis())
        };
        // The session is touched every 10 s. From 30 s after the last use, a touch must precede
        // each response.
        assert_eq!(life(40_000, 12_000), Some(1_000));
        assert_eq!(life(40_000, 29_500), Some(500));
        assert_eq!(life(40_000, 30_000), None);
        assert_eq!(life(40_000, 39_000), None);
        // The session is touched every 100 ms.
        assert_eq!(life(400, 150), Some(100));
    }

    #[test]
    fn jitter_shortens_ttl_by_at_most_a_tenth() {
        assert_eq!(less_jitter(ENTRY_TTL, TokenDigest::from_bytes([0; 32])), ENTRY_TTL);
        let least = less_jitter(ENTRY_TTL, TokenDigest::from_bytes([255; 32]));
        assert!(least > ENTRY_TTL * 9 / 10 && least < ENTRY_TTL * 91 / 100, "{least:?}");
    }
}
