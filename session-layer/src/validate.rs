//! validate: whose session is this, and may it still be used?
//!
//! 1. Ask the cache. A copy that is believed answers at once.
//! 2. Anything else asks the store, *after* the lease was granted. A cache that is down, slow or
//!    lying costs its budget at most and changes no answer.
//! 3. The answer goes out; the fill follows behind it, and only with the lease.
//!
//! What ends here is `Valid`, `Invalid` (the store said so) or `Unavailable` (nobody could say):
//! no error of any kind turns into `Invalid`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::cache::{Belief, Entry, Filled, Lookup, SessionCache};
use crate::clock::Timestamp;
use crate::driver::Driver;
use crate::error::{CacheError, StoreError, StoreErrorKind};
use crate::session::Session;
use crate::sessions::Mode;
use crate::store::{Change, Loaded, Row, SessionStore, StoreId};
use crate::token::TokenDigest;

/// The answer to "whose session is this, and may it still be used?".
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Validation {
    /// This one's, and it may.
    Valid(Session),
    /// Postgres said that there is no such session, or that it has ended.
    Invalid,
    /// Nobody could say: an outage, to be answered with 503, never with 401.
    Unavailable,
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The cache alone.
    Cache,
    /// The store.
    Store,
    /// Nobody could.
    Nobody,
}

impl Tier {
    /// `hit`, `store` or `unavailable`, as in the `Server-Timing` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "hit",
            Self::Store => "store",
            Self::Nobody => "unavailable",
        }
    }
}

/// The answers to one look-up of one or several digests.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// One per digest, in order.
    pub(crate) validations: Vec<Validation>,
    /// Who gave them.
    pub(crate) tier: Tier,
    /// The cache was to be asked and could not be.
    pub(crate) degraded: bool,
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// Looks the digests up in one round trip each to the cache and, if need be, the store.
    pub(crate) async fn validate(self: Arc<Self>, digests: Vec<TokenDigest>) -> Answers {
        let deadline = tokio::time::Instant::now() + self.settings.budget;
        let (found, degraded) = match self.mode() {
            Mode::Bypass => {
                self.counters.bypassed.add_one();
                (digests.iter().map(|_| Lookup::DoNotFill).collect(), false)
            }
            Mode::On => self.ask_cache(&digests).await,
        };
        let mut validations = Vec::with_capacity(digests.len());
        let mut open = Vec::new();
        for (at, (digest, lookup)) in digests.iter().zip(found).enumerate() {
            let lease = match lookup {
                Lookup::Hit(entry) => {
                    validations.push(Validation::Valid(entry.session));
                    continue;
                }
                Lookup::Leased(lease) => Some(lease),
                Lookup::DoNotFill | Lookup::Failed(_) => None,
            };
            validations.push(Validation::Unavailable);
            open.push(Open {
                at,
                digest: *digest,
                lease,
            });
        }
        if open.is_empty() {
            return Answers {
                validations,
                tier: Tier::Cache,
                degraded,
            };
        }
        let tier = match self.ask_store(open, deadline).await {
            Ok(told) => {
                for (at, validation) in told {
                    validations[at] = validation;
                }
                Tier::Store
            }
            Err(error) => {
                self.counters.unavailable.add_one();
                self.note_store(&error);
                Tier::Nobody
            }
        };
        Answers {
            validations,
            tier,
            degraded,
        }
    }

    /// Step 1. Also says whether the cache failed, and counts: every validation is a hit, a miss or
    /// an error.
    async fn ask_cache(&self, digests: &[TokenDigest]) -> (Vec<Lookup<C::Lease>>, bool) {
        let (now, store) = (self.seen.clock.now(), self.seen.id());
        let judge = move |entry: &Entry| believe(entry, now, store);
        let mut found = self.cache.get(digests, &judge).await;
        for (digest, lookup) in digests.iter().zip(&mut found) {
            // Before the store's first answer there is nothing to check a copy against; and of what
            // this node changed without the cache's acknowledgement it knows better.
            if matches!(lookup, Lookup::Hit(_))
                && (store.is_none() || self.pending.contains(digest))
            {
                *lookup = Lookup::DoNotFill;
            }
        }
        let failure = found.iter().find_map(|lookup| match lookup {
            Lookup::Failed(error) => Some(error),
            _ => None,
        });
        let counters = &self.counters;
        match failure {
            Some(error) => {
                counters.errors.add_one();
                self.note_cache(error);
            }
            None if found.iter().all(|lookup| matches!(lookup, Lookup::Hit(_))) => {
                counters.hits.add_one();
            }
            None => counters.misses.add_one(),
        }
        let degraded = failure.is_some();
        (found, degraded)
    }

    /// Steps 2 and 3, in a task of their own: a client that goes away neither breaks off a read of
    /// the store (which costs its connection) nor loses the fill.
    async fn ask_store(
        self: &Arc<Self>,
        open: Vec<Open<C::Lease>>,
        deadline: tokio::time::Instant,
    ) -> Result<Vec<(usize, Validation)>, StoreError> {
        let (tell, told) = oneshot::channel();
        let driver = Arc::clone(self);
        self.tasks.spawn(async move {
            let digests: Vec<_> = open.iter().map(|open| open.digest).collect();
            driver.counters.store_reads.add_one();
            let asked = Instant::now();
            let loaded = match driver.store.load(&digests).await {
                Ok(loaded) => loaded,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            driver.seen.heard(asked, &loaded);
            let context = ReadContext::of(&loaded);
            let mut answers = Vec::with_capacity(open.len());
            let mut behind = Vec::new();
            for (open, row) in open.into_iter().zip(loaded.rows) {
                let (validation, after) =
                    driver.answer(&context, open.digest, row, open.lease).await;
                answers.push((open.at, validation));
                behind.extend(after);
            }
            let _ = tell.send(Ok(answers));
            for work in behind {
                driver.work_behind(work).await;
            }
        });
        match tokio::time::timeout_at(deadline, told).await {
            Ok(Ok(answer)) => answer,
            // The task ended without a word only if the runtime is shutting down.
            Ok(Err(_)) | Err(_) => Err(StoreError::new(
                StoreErrorKind::TimedOut,
                "no answer within the request's budget",
            )),
        }
    }

    /// What one row of the store means for its request, and what is to be done behind the answer.
    async fn answer(
        &self,
        read: &ReadContext,
        digest: TokenDigest,
        row: Row,
        lease: Option<C::Lease>,
    ) -> (Validation, Option<Behind<C::Lease>>) {
        let (mut session, previous_until) = match row {
            Row::Alive {
                session,
                previous_until,
            } => (session, previous_until),
            // After an "invalid" no node may say "valid" again. A copy that outlived its session has to
            // be gone before it; and where the lease is not ours, so has the lease of whoever read the
            // row while it was still there.
            Row::Absent if lease.is_some() => return (Validation::Invalid, None),
            Row::Absent | Row::Revoked => {
                let _ = self.cache.invalidate(&[digest]).await;
                return (Validation::Invalid, None);
            }
        };
        let granularity = touch_granularity(session.idle_timeout());
        let mut late_touch = false;
        if read.now.since(session.last_seen_at()) >= granularity {
            // With an idle timeout the touch decides whether the session lives on, so it comes before
            // the answer; without one it only dates the user's list of sessions.
            if session.idle_timeout().is_some() {
                match self.store.touch(session.id(), granularity).await {
                    Ok(Change::Made {
                        session: touched, ..
                    }) => session = touched,
                    Ok(Change::NoSession) => return (Validation::Invalid, None),
                    // Alive by the read; not to be cached, so that the next request tries again.
                    Ok(Change::Conflict) => return (Validation::Valid(session), None),
                    Err(error) => {
                        self.note_touch(&error);
                        return (Validation::Valid(session), None);
                    }
                }
            } else {
                late_touch = true;
            }
        }
        let lifetime = lifetime(
            read.now,
            self.settings.ttl,
            digest,
            &session,
            previous_until,
        );
        let behind = Behind {
            touch: late_touch.then_some((session.id(), granularity)),
            fill: lease.zip(lifetime).map(|(lease, lifetime)| Fill {
                lease,
                lifetime,
                entry: Entry {
                    session: session.clone(),
                    store_id: read.store_id,
                    xmin: read.xmin,
                    not_after: read.now.after(lifetime),
                },
            }),
        };
        (Validation::Valid(session), Some(behind))
    }

    /// Step 3, and a touch that may be late.
    async fn work_behind(&self, work: Behind<C::Lease>) {
        if let Some(Fill {
            lease,
            entry,
            lifetime,
        }) = work.fill
        {
            match self.cache.fill(lease, &entry, lifetime).await {
                Ok(Filled::Stored) => self.counters.fills.add_one(),
                Ok(Filled::Refused) => self.counters.fills_refused.add_one(),
                Err(error) => self.note_cache(&error),
            }
        }
        if let Some((id, granularity)) = work.touch
            && let Err(error) = self.store.touch(id, granularity).await
        {
            self.note_touch(&error);
        }
    }

    fn note_touch(&self, error: &StoreError) {
        self.troubles
            .note(Instant::now(), format!("touching a session: {error}"));
    }

    pub(crate) fn note_cache(&self, error: &CacheError) {
        self.troubles
            .note(Instant::now(), format!("session cache: {error}"));
    }
}

/// A digest that the cache did not answer.
struct Open<L> {
    /// Its place among the digests of the look-up.
    at: usize,
    digest: TokenDigest,
    lease: Option<L>,
}

/// What one read of the store says of all its rows.
struct ReadContext {
    now: Timestamp,
    store_id: StoreId,
    xmin: u64,
}

impl ReadContext {
    fn of(loaded: &Loaded) -> Self {
        Self {
            now: loaded.now,
            store_id: loaded.store_id,
            xmin: loaded.xmin,
        }
    }
}

/// What is done after the answer went out.
struct Behind<L> {
    fill: Option<Fill<L>>,
    touch: Option<(crate::session::SessionId, Duration)>,
}

struct Fill<L> {
    lease: L,
    entry: Entry,
    lifetime: Duration,
}

/// May this copy be served at `now` (the store's clock)? `store`: which store this node asks; before
/// it knows, only age can be judged, and the caller serves nothing.
fn believe(entry: &Entry, now: Timestamp, store: Option<StoreId>) -> Belief {
    let foreign = store.is_some_and(|store| store != entry.store_id);
    if foreign || now >= entry.not_after {
        Belief::Dead
    } else {
        Belief::Believed
    }
}

/// How often a session's use is noted: once a minute, or four times per idle timeout where that is
/// more often.
fn touch_granularity(idle_timeout: Option<Duration>) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    idle_timeout.map_or(MINUTE, |idle| MINUTE.min(idle / 4))
}

/// How long a copy read at `now` may be served: the TTL less jitter, but no longer than the session
/// itself lives, than the grace of a rotation, or than until the next touch that must precede an
/// answer. `None`: not worth a copy.
fn lifetime(
    now: Timestamp,
    ttl: Duration,
    digest: TokenDigest,
    session: &Session,
    previous_until: Option<Timestamp>,
) -> Option<Duration> {
    let mut lifetime = less_jitter(ttl, digest).min(session.expires_at().since(now));
    if let Some(until) = previous_until {
        lifetime = lifetime.min(until.since(now));
    }
    if let Some(idle) = session.idle_timeout() {
        let next_touch = session.last_seen_at().after(touch_granularity(Some(idle)));
        lifetime = lifetime.min(next_touch.since(now));
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
            not_after,
        }
    }

    #[test]
    fn a_copy_is_believed_while_young_and_of_our_store() {
        let ours = [1; 16];
        let later = NOW.after(Duration::from_micros(1));
        for (store, not_after, expected) in [
            (Some(ours), later, Belief::Believed),
            (Some(ours), NOW, Belief::Dead),
            (Some([2; 16]), later, Belief::Dead),
            (None, later, Belief::Believed),
        ] {
            assert_eq!(believe(&entry(ours, not_after), NOW, store), expected);
        }
    }

    #[test]
    fn a_copy_never_outlives_what_it_is_a_copy_of() {
        let digest = TokenDigest::from_bytes([0; 32]); // no jitter
        let secs = Duration::from_secs;
        let life = |session: &Session, previous| lifetime(NOW, TTL, digest, session, previous);
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
    fn jitter_takes_at_most_a_tenth() {
        assert_eq!(less_jitter(TTL, TokenDigest::from_bytes([0; 32])), TTL);
        let least = less_jitter(TTL, TokenDigest::from_bytes([255; 32]));
        assert!(least > TTL * 9 / 10 && least < TTL * 91 / 100, "{least:?}");
    }
}
