//! The decisions of a validation: functions of what they are given, time included.

use std::time::Duration;

use crate::cache::{Belief, Entry};
use crate::clock::Timestamp;
use crate::journal::Word;
use crate::session::Session;
use crate::store::StoreId;
use crate::token::TokenDigest;

/// May this copy be served at `now` (the store's clock)? `store`: which store this node asks, if it knows
/// already. `ttl`: this node's own, which counts also where a node with a longer one put the copy there;
/// else no stated bound would hold. `word`: what the journal says of it.
pub(super) fn believe(
    entry: &Entry,
    now: Timestamp,
    store: Option<StoreId>,
    ttl: Duration,
    word: Word,
) -> Belief {
    let foreign = store.is_some_and(|store| store != entry.store_id);
    let over = now >= entry.not_after || now.since(entry.read_at) >= ttl;
    // The store's clock was set back since: how old the copy is, nobody knows. (Before the store's first answer
    // it is ours that may be wrong.)
    let ahead = store.is_some() && entry.read_at > now.after(AHEAD);
    let over = over || ahead;
    if foreign {
        Belief::Foreign
    } else if over || word == Word::Contradicted {
        Belief::Dead
    } else if store.is_none() || word == Word::Unread {
        Belief::Unsure
    } else {
        Belief::Believed
    }
}

/// So much may another node's notion of the store's clock be ahead of ours: each carries it forward from the
/// store's last answer to it, and of two machines that idle for a day one may be seconds off.
const AHEAD: Duration = Duration::from_secs(5);

/// How often a session's use is noted: once a minute, or four times per idle timeout where that is
/// more often.
pub(super) fn touch_granularity(idle_timeout: Option<Duration>) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    idle_timeout.map_or(MINUTE, |idle| MINUTE.min(idle / 4))
}

/// A session whose use could not be noted is tried again after this: until then it is served from its copy, or each
/// of its requests would ask the store, which is in trouble perhaps, to read and to touch it.
const TOUCH_AGAIN: Duration = Duration::from_secs(1);

/// How long a copy read at `now` may be served: the TTL less jitter, but no longer than the session
/// itself lives, than the grace of a rotation, or than until the next touch that must precede an
/// answer. Where that touch is due and was not made (`noted` is false), not for long, and not while less of the
/// session's life is left than a touch may be late. `None`: not worth a copy.
pub(super) fn lifetime(
    now: Timestamp,
    ttl: Duration,
    digest: TokenDigest,
    session: &Session,
    previous_until: Option<Timestamp>,
    noted: bool,
) -> Option<Duration> {
    let mut lifetime = less_jitter(ttl, digest).min(session.expires_at().since(now));
    if let Some(until) = previous_until {
        lifetime = lifetime.min(until.since(now));
    }
    if let Some(idle) = session.idle_timeout() {
        let granularity = touch_granularity(Some(idle));
        let seen = session.last_seen_at();
        lifetime = lifetime.min(if noted {
            seen.after(granularity).since(now)
        } else {
            let safe = seen.after(idle - granularity).since(now);
            safe.min(TOUCH_AGAIN).min(granularity)
        });
    }
    // Redis counts whole milliseconds.
    (lifetime >= Duration::from_millis(1)).then_some(lifetime)
}

/// Up to a tenth less, so that what was filled at one moment (after a flush, a restart) does not
/// expire at one moment. The digest is random enough and makes it repeatable.
fn less_jitter(ttl: Duration, digest: TokenDigest) -> Duration {
    let [a, b, ..] = *digest.as_bytes();
    ttl - ttl / 10 * u32::from(u16::from_be_bytes([a, b])) / 65_536
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{SessionParts, data_to_json};

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);
    const TTL: Duration = Duration::from_secs(300);

    fn session(
        expires_in: Duration,
        idle_timeout: Option<Duration>,
        seen_ago: Duration,
    ) -> Session {
        let seen = NOW.as_micros() - i64::try_from(seen_ago.as_micros()).unwrap();
        SessionParts {
            id: crate::session::SessionId::from_bytes([1; 16]),
            user_id: "alice".to_owned(),
            version: 1,
            created_at: NOW,
            authenticated_at: NOW,
            last_seen_at: Timestamp::from_micros(seen),
            expires_at: NOW.after(expires_in),
            idle_timeout,
            persistent: false,
            data: data_to_json(()).unwrap(),
        }
        .into()
    }

    fn entry(store_id: StoreId, not_after: Timestamp) -> Entry {
        let session = session(Duration::from_secs(9), None, Duration::ZERO);
        Entry {
            session,
            store_id,
            xmin: 0,
            read_at: NOW,
            not_after,
        }
    }

    #[test]
    fn a_copy_is_believed_while_young_and_of_our_store() {
        let ours = [1; 16];
        let later = NOW.after(Duration::from_micros(1));
        for (store, not_after, word, expected) in [
            (Some(ours), later, Word::Good, Belief::Believed),
            (Some(ours), NOW, Word::Good, Belief::Dead),
            (Some([2; 16]), later, Word::Good, Belief::Foreign),
            (None, later, Word::Good, Belief::Unsure),
            (None, NOW, Word::Good, Belief::Dead),
            (Some(ours), later, Word::Unread, Belief::Unsure),
            (Some(ours), NOW, Word::Unread, Belief::Dead),
            (Some(ours), later, Word::Contradicted, Belief::Dead),
            (None, later, Word::Contradicted, Belief::Dead),
        ] {
            let copy = entry(ours, not_after);
            assert_eq!(believe(&copy, NOW, store, TTL, word), expected);
        }
        // Another node's TTL is longer than ours.
        let long = entry(ours, NOW.after(TTL * 9));
        for (age, expected) in [(TTL / 2, Belief::Believed), (TTL, Belief::Dead)] {
            let now = NOW.after(age);
            assert_eq!(believe(&long, now, Some(ours), TTL, Word::Good), expected);
        }
    }

    #[test]
    fn a_copy_from_before_the_stores_clock_was_set_back_is_dead() {
        let ours = Some([1; 16]);
        let copy = entry([1; 16], NOW.after(TTL));
        let set_back = |by: Duration| {
            Timestamp::from_micros(NOW.as_micros() - i64::try_from(by.as_micros()).unwrap())
        };
        for (by, store, expected) in [
            (AHEAD, ours, Belief::Believed),
            (AHEAD + Duration::from_micros(1), ours, Belief::Dead),
            (Duration::from_secs(600), ours, Belief::Dead),
            (Duration::from_secs(600), None, Belief::Unsure),
        ] {
            let believed = believe(&copy, set_back(by), store, TTL, Word::Good);
            assert_eq!(believed, expected, "{by:?}");
        }
    }

    #[test]
    fn a_copy_never_outlives_what_it_is_a_copy_of() {
        let digest = TokenDigest::from_bytes([0; 32]); // no jitter
        let secs = Duration::from_secs;
        let life =
            |session: &Session, previous| lifetime(NOW, TTL, digest, session, previous, true);
        let day = secs(86_400);
        assert_eq!(life(&session(day, None, secs(0)), None), Some(TTL));
        assert_eq!(life(&session(secs(7), None, secs(0)), None), Some(secs(7)));
        assert_eq!(
            life(&session(day, None, secs(0)), Some(NOW.after(secs(5)))),
            Some(secs(5))
        );
        assert_eq!(
            life(&session(day, None, secs(0)), Some(NOW)),
            None,
            "the grace is over"
        );
        // An idle timeout of 40 s is touched every 10 s; this one was touched 4 s ago.
        assert_eq!(
            life(&session(day, Some(secs(40)), secs(4)), None),
            Some(secs(6))
        );
        assert_eq!(
            life(&session(day, Some(secs(3600)), secs(0)), None),
            Some(secs(60))
        );
    }

    #[test]
    fn a_copy_whose_use_is_not_noted_lives_for_a_moment_and_not_near_the_end() {
        let digest = TokenDigest::from_bytes([0; 32]); // no jitter
        let life = |idle: u64, seen_ago: u64| {
            let idle = Duration::from_millis(idle);
            let session = session(TTL * 9, Some(idle), Duration::from_millis(seen_ago));
            lifetime(NOW, TTL, digest, &session, None, false).map(|life| life.as_millis())
        };
        // Touched every 10 s, and 30 s after the last use a touch has to come before each answer.
        assert_eq!(life(40_000, 12_000), Some(1_000));
        assert_eq!(life(40_000, 29_500), Some(500));
        assert_eq!(life(40_000, 30_000), None);
        assert_eq!(life(40_000, 39_000), None);
        // Touched every 100 ms.
        assert_eq!(life(400, 150), Some(100));
    }

    #[test]
    fn jitter_takes_at_most_a_tenth() {
        assert_eq!(less_jitter(TTL, TokenDigest::from_bytes([0; 32])), TTL);
        let least = less_jitter(TTL, TokenDigest::from_bytes([255; 32]));
        assert!(least > TTL * 9 / 10 && least < TTL * 91 / 100, "{least:?}");
    }
}
