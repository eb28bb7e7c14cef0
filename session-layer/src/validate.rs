//! validate: whose session is this, and may it still be used?
//!
//! 1. Ask the cache. A copy that is believed answers at once.
//! 2. Anything else asks the store (`reads.rs`), *after* the lease was granted. A cache that is down, slow
//!    or lying costs its deadline at most, and once the breaker is open nothing; it changes no answer.
//! 3. The answer goes out; the fill follows behind it, and only with the lease.
//!
//! What ends here is `Valid`, `Invalid` (the store said so) or `Unavailable` (nobody could say):
//! no error of any kind turns into `Invalid`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

mod decide;

use self::decide::{believe, lifetime, touch_granularity};
use crate::breaker::BreakerState;
use crate::cache::{Entry, Filled, Lookup, SessionCache};
use crate::clock::Timestamp;
use crate::driver::Driver;
use crate::error::{CacheError, CacheErrorKind};
use crate::session::{Session, SessionId};
use crate::sessions::Mode;
use crate::store::{Loaded, Row, SessionStore, StoreId};
use crate::token::TokenDigest;
use crate::touch::Touched;

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
    /// The sessions that now end later, by a touch before this very answer, and the digests they were
    /// found under.
    pub(crate) prolonged: Vec<(SessionId, TokenDigest)>,
}

/// What the store's word on a digest came to.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) validation: Validation,
    /// The session now ends later than it did: it was touched.
    pub(crate) prolonged: bool,
}

impl From<Validation> for Told {
    fn from(validation: Validation) -> Self {
        Self {
            validation,
            prolonged: false,
        }
    }
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// Looks the digests up in one round trip each to the cache and, if need be, the store.
    pub(crate) async fn validate(self: Arc<Self>, digests: Vec<TokenDigest>) -> Answers {
        self.start();
        let deadline = Instant::now() + self.settings.budget;
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
                Lookup::DoNotFill | Lookup::Refused(_) | Lookup::Failed(_) => None,
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
                prolonged: Vec::new(),
            };
        }
        let told = self.ask_store(open, deadline).await;
        let tier = if told.is_empty() {
            self.counters.unavailable.add_one();
            Tier::Nobody
        } else {
            Tier::Store
        };
        let mut prolonged = Vec::new();
        for (at, told) in told {
            if let (true, Validation::Valid(session)) = (told.prolonged, &told.validation) {
                prolonged.push((session.id(), digests[at]));
            }
            validations[at] = told.validation;
        }
        Answers {
            validations,
            tier,
            degraded,
            prolonged,
        }
    }

    /// Step 1. Also says whether the cache failed, and counts: every validation is a hit, a miss or
    /// an error.
    async fn ask_cache(self: &Arc<Self>, digests: &[TokenDigest]) -> (Vec<Lookup<C::Lease>>, bool) {
        let ttl = self.settings.ttl;
        // Judged when the reply is there: what was learnt meanwhile counts.
        let judge = move |entry: &Entry| {
            let word = self.journal.says(entry, Instant::now());
            believe(entry, self.seen.clock.now(), self.seen.id(), ttl, word)
        };
        // Of what this node changed without the cache's acknowledgement it knows better. Looked up before
        // and after: a copy may have been read before the removal that was acknowledged meanwhile.
        let before: Vec<bool> = digests.iter().map(|d| self.pending.contains(d)).collect();
        let mut found = self.look_up_cached(digests, &judge).await;
        for ((digest, before), lookup) in digests.iter().zip(before).zip(&mut found) {
            if matches!(lookup, Lookup::Hit(_)) && (before || self.pending.contains(digest)) {
                *lookup = Lookup::DoNotFill;
            }
        }
        let failure = found.iter().find_map(|lookup| match lookup {
            Lookup::Failed(error) => Some(error),
            _ => None,
        });
        for lookup in &found {
            if let Lookup::Refused(error) = lookup {
                self.note_cache(error);
            }
        }
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

    /// What one row of the store means for its request, and what is to be done behind the answer.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        read: &ReadContext,
        digest: TokenDigest,
        row: Row,
        lease: Option<C::Lease>,
    ) -> (Told, Option<Behind<C::Lease>>) {
        let (mut session, previous_until) = match row {
            Row::Alive {
                session,
                previous_until,
            } => (session, previous_until),
            // After an "invalid" no node may say "valid" again. A copy that outlived its session has to
            // be gone before it, and so has the lease of whoever read the row while it was still there.
            // (Also where a lease was granted to us: it may have been lost since, and another's fill be
            // in its place.)
            Row::Absent => return (self.invalid(digest, Was::Absent).await.into(), None),
            Row::Revoked => return (self.invalid(digest, Was::Ended).await.into(), None),
        };
        let granularity = touch_granularity(session.idle_timeout());
        let due = read.now.since(session.last_seen_at()) >= granularity;
        let (mut noted, mut prolonged) = (true, false);
        if due && session.idle_timeout().is_some() {
            match self
                .touch(session.id(), granularity, session.is_persistent())
                .await
            {
                // Changed since it was read: what the change means for this token (a rotation may have
                // replaced it) only another read says, and a copy with the new version would be believed.
                Touched::Noted(touched) if touched.version() != session.version() => {
                    return (Validation::Valid(session).into(), None);
                }
                Touched::Noted(touched) => {
                    // Of a token that a rotation has replaced the client is to keep no longer hold.
                    prolonged = previous_until.is_none();
                    session = touched;
                }
                Touched::Ended => return (self.invalid(digest, Was::Ended).await.into(), None),
                Touched::NotYet => noted = false,
            }
        }
        let late_touch = due && session.idle_timeout().is_none();
        let lifetime = lifetime(
            read.now,
            self.settings.ttl,
            digest,
            &session,
            previous_until,
            noted,
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
                    read_at: read.now,
                    not_after: read.now.after(lifetime),
                },
            }),
        };
        let told = Told {
            validation: Validation::Valid(session),
            prolonged,
        };
        (told, Some(behind))
    }

    /// "Invalid", once the key is removed. What could not be removed is not believed by this node, and
    /// is tried again.
    async fn invalid(self: &Arc<Self>, digest: TokenDigest, was: Was) -> Validation {
        let driver = Arc::clone(self);
        let removal = async move {
            let removed = driver.cache.invalidate(&[digest]).await;
            removed.map_err(|error| driver.note_cache(&error)).is_ok()
        };
        let removed = if self.gate.status().0 == BreakerState::Closed {
            removal.await
        } else {
            // It goes on when nobody waits for it: breaking it off would cost a connection.
            let removal = timeout(REMOVAL_WHILE_OPEN, self.tasks.spawn(removal));
            matches!(removal.await, Ok(Ok(true)))
        };
        // A flood of tokens that never existed, while the cache is down, must not fill the memory.
        if !removed && (was == Was::Ended || self.pending.len() < MOST_ABSENT) {
            self.unlink_later(&[digest]);
        }
        Validation::Invalid
    }

    /// Step 3, and a touch that may be late.
    pub(crate) async fn work_behind(&self, work: Behind<C::Lease>) {
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
        if let Some((id, granularity)) = work.touch {
            self.touch_behind(id, granularity).await;
        }
    }

    pub(crate) fn note_cache(&self, error: &CacheError) {
        let news = self
            .troubles
            .note(Instant::now(), format!("session cache: {error}"));
        // Of giving the cache up and asking it again, the breaker tells.
        let refused = matches!(
            error.kind(),
            CacheErrorKind::Refused | CacheErrorKind::Protocol | CacheErrorKind::Entry
        );
        if news && refused {
            tracing::warn!(%error, "the session cache refuses something; the store is asked instead");
        }
    }
}

/// What the store said of a session that is invalid.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Was {
    /// There was one, and it has ended: there may be a copy.
    Ended,
    /// There is none. Only if it was deleted by plain SQL there may be a copy.
    Absent,
}

/// How long an "invalid" waits for its removal while the breaker is not closed: twice what a healthy validation
/// may take. A cache that is back, and is being found out about, answers sooner; one that is not would take its
/// whole deadline from every "invalid".
const REMOVAL_WHILE_OPEN: Duration = Duration::from_millis(10);

/// How many removals of absent sessions' keys are kept for later at most: about 1 MiB.
const MOST_ABSENT: usize = 10_000;

/// A digest that the cache did not answer.
pub(crate) struct Open<L> {
    /// Its place among the digests of the look-up.
    pub(crate) at: usize,
    pub(crate) digest: TokenDigest,
    pub(crate) lease: Option<L>,
}

/// What one read of the store says of all its rows.
pub(crate) struct ReadContext {
    now: Timestamp,
    store_id: StoreId,
    xmin: u64,
}

impl ReadContext {
    pub(crate) fn of(loaded: &Loaded) -> Self {
        Self {
            now: loaded.now,
            store_id: loaded.store_id,
            xmin: loaded.xmin,
        }
    }
}

/// What is done after the answer went out.
pub(crate) struct Behind<L> {
    fill: Option<Fill<L>>,
    touch: Option<(SessionId, Duration)>,
}

struct Fill<L> {
    lease: L,
    entry: Entry,
    lifetime: Duration,
}
