//! What the store's word on a token means: the answer, and what is done behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Validation;
use super::decide::{lifetime, touch_granularity};
use crate::breaker::BreakerState;
use crate::cache::{Entry, Filled, SessionCache};
use crate::clock::Timestamp;
use crate::deadline;
use crate::driver::Driver;
use crate::session::SessionId;
use crate::store::{Loaded, Row, SessionStore, StoreId};
use crate::token::TokenDigest;
use crate::touch::Touched;
use crate::troubles::Work;

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

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// What one row of the store means for its request, and what is to be done behind the answer.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        read: &ReadContext,
        digest: TokenDigest,
        row: Row,
        lease: Option<C::Lease>,
        cache_failed: bool,
    ) -> (Told, Option<Behind<C::Lease>>) {
        let invalid = |was| self.invalid(digest, was, cache_failed);
        let (mut session, previous_until) = match row {
            Row::Alive {
                session,
                previous_until,
            } => (session, previous_until),
            // After an "invalid" no node may say "valid" again. A copy that outlived its session has to
            // be gone before it, and so has the lease of whoever read the row while it was still there.
            // (Also where a lease was granted to us: it may have been lost since, and another's fill be
            // in its place.)
            Row::Absent => return (invalid(Was::Absent).await.into(), None),
            Row::Revoked => return (invalid(Was::Ended).await.into(), None),
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
                Touched::Ended => return (invalid(Was::Ended).await.into(), None),
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
    async fn invalid(
        self: &Arc<Self>,
        digest: TokenDigest,
        was: Was,
        cache_failed: bool,
    ) -> Validation {
        let driver = Arc::clone(self);
        let removal = self.tasks.spawn(async move {
            match driver.invalidate(&[digest]).await {
                Ok(_) => driver.cache_did(Work::Unlink),
                Err(error) => {
                    driver.note_cache(Work::Unlink, &error);
                    return false;
                }
            }
            true
        });
        let patience = if self.gate.status().0 == BreakerState::Closed && !cache_failed {
            self.settings.budget / 2
        } else {
            REMOVAL_IN_DOUBT
        };
        // It goes on when nobody waits for it: breaking it off would cost a connection.
        let removed = matches!(timeout(patience, removal).await, Ok(Ok(true)));
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
            let filling = self.cache.fill(lease, &entry, lifetime);
            match deadline::of_cache(self.for_validation(), filling).await {
                Ok(filled) => {
                    self.cache_did(Work::Fill);
                    match filled {
                        Filled::Stored => self.counters.fills.add_one(),
                        Filled::Refused => self.counters.fills_refused.add_one(),
                    }
                }
                Err(error) => self.note_cache(Work::Fill, &error),
            }
        }
        if let Some((id, granularity)) = work.touch {
            self.touch_behind(id, granularity).await;
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

/// How long an "invalid" waits for its removal while the breaker is not closed, or where its own look-up failed: twice
/// what a healthy validation may take. A cache that is back, and is being found out about, answers sooner; one that is not would take its
/// whole deadline from every "invalid".
const REMOVAL_IN_DOUBT: Duration = Duration::from_millis(10);

/// How many removals of absent sessions' keys are kept for later at most: about 1 MiB.
const MOST_ABSENT: usize = 10_000;
