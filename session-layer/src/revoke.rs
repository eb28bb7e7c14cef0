//! revoke, and everything else that changes a session: fence, COMMIT with journal, UNLINK.
//!
//! 1. Best effort: the fence keeps new fills away. It shortens races; nothing rests on it.
//! 2. The store: the row is changed and the journal written in one transaction.
//! 3. The cached copies are removed, also when nothing had to be changed, also when the fate of the
//!    COMMIT is unknown. What the cache does not acknowledge is tried again behind the answer.
//!
//! The answer says how far the change reaches ([`Reach`]); there is no bare `Ok(())`. The whole of it
//! runs in a task of its own: a client that goes away can't stop it between COMMIT and UNLINK.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use crate::cache::{Invalidated, LEASE, SessionCache};
use crate::clock::FOR_EVER;
use crate::deadline::{self, LONGEST};
use crate::driver::{Driver, stopped_in};
use crate::error::{Error, StoreError, StoreErrorKind};
use crate::journal::Policy;
use crate::pending::{BATCH, RETRY_EVERY};
use crate::session::{Session, SessionId};
use crate::store::{Change, Revoked, SessionStore, Target};
use crate::token::{SessionToken, TokenDigest};
use crate::troubles::Work;

/// A change that was made, and how far it reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "`reach` says from when on no node honours the old state any more"]
pub struct Changed<T> {
    /// What came of it.
    pub value: T,
    /// From when on it holds everywhere.
    pub reach: Reach,
}

/// From when on no node honours the old state any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// There was nothing to change.
    Nothing,
    /// From now on, on every node: the one cache there is has dropped its copy, or there is no cache and
    /// one process.
    Propagated,
    /// It is committed, and every node honours it after these spans at the latest.
    Committed {
        /// For nodes in touch with Postgres: they read the journal of changes. D, 2 s by default.
        within: Duration,
        /// For every node, one that is cut off from Postgres included: TTL + 2 s, 302 s by default;
        /// under [`Policy::FailClosed`](crate::Policy) the same as `within`.
        at_most: Duration,
    },
}

impl Reach {
    /// What is left of it when so much time has passed since.
    #[must_use]
    pub fn after(self, passed: Duration) -> Self {
        match self {
            Self::Committed { within, at_most } => Self::Committed {
                within: within.saturating_sub(passed),
                at_most: at_most.saturating_sub(passed),
            },
            whole @ (Self::Nothing | Self::Propagated) => whole,
        }
    }
}

/// How long [`revoke_and_wait`](crate::Sessions::revoke_and_wait) waits before it tries again.
const AGAIN: Duration = Duration::from_millis(250);

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// Ends the sessions in question. The value: how many were alive.
    pub(crate) async fn revoke(
        self: Arc<Self>,
        target: Target,
        reason: String,
    ) -> Result<Changed<u64>, Error> {
        self.change(target.clone(), move |driver| async move {
            let Revoked {
                ended,
                found,
                digests,
            } = driver.store.revoke(&target, &reason).await?;
            let anything = found > 0;
            Ok(Committed {
                value: Ok(ended),
                digests,
                anything,
                least_version: None,
            })
        })
        .await
    }

    /// Revokes, again and again until it is known to hold, or until `deadline` has passed.
    pub(crate) async fn revoke_and_wait(
        self: Arc<Self>,
        target: Target,
        reason: String,
        deadline: Duration,
    ) -> Result<Changed<u64>, Error> {
        let deadline = Instant::now() + deadline.min(FOR_EVER);
        // The first commit, and when that was: its bounds count from there, and later tries find what it
        // ended.
        let mut committed: Option<(Instant, Changed<u64>)> = None;
        loop {
            let revoking = Arc::clone(&self).revoke(target.clone(), reason.clone());
            let revoked = timeout_at(deadline, revoking).await;
            let now = Instant::now();
            let outage = match revoked {
                Ok(Ok(changed)) => {
                    let (at, first) = committed.get_or_insert((now, changed.clone()));
                    let reach = match changed.reach {
                        Reach::Committed { .. } => first.reach.after(now - *at),
                        whole => whole,
                    };
                    let value = first.value;
                    if !matches!(reach, Reach::Committed { within, .. } if !within.is_zero()) {
                        return Ok(Changed { value, reach });
                    }
                    None
                }
                Ok(Err(error)) if !error.is_outage() => return Err(error),
                Ok(Err(outage)) => Some(outage),
                Err(_elapsed) => None,
            };
            if now >= deadline {
                return match (committed, outage) {
                    (Some((at, first)), _) => Ok(Changed {
                        reach: first.reach.after(now - at),
                        ..first
                    }),
                    (None, Some(outage)) => Err(outage),
                    (None, None) => Err(Error::Unknown(StoreError::new(
                        StoreErrorKind::Uncertain,
                        "the revocation was still under way at the deadline, and goes on",
                    ))),
                };
            }
            tokio::time::sleep_until(deadline.min(now + AGAIN)).await;
        }
    }

    /// Replaces the data of a session whose version is still this one.
    pub(crate) async fn update(
        self: Arc<Self>,
        id: SessionId,
        version: i64,
        data: Box<RawValue>,
    ) -> Result<Changed<Session>, Error> {
        self.change(Target::Id(id), move |driver| async move {
            let change = driver.store.update(id, version, &data).await?;
            Ok(Committed::of(change, Error::VersionConflict))
        })
        .await
    }

    /// Gives the session under `old` a new token.
    pub(crate) async fn rotate(
        self: Arc<Self>,
        old: TokenDigest,
        new: SessionToken,
        grace: Duration,
    ) -> Result<Changed<(SessionToken, Session)>, Error> {
        let changed = self
            .change(Target::Token(old), {
                let new = new.digest();
                move |driver| async move {
                    let change = driver.store.rotate(old, new, grace).await?;
                    Ok(Committed::of(change, Error::AlreadyRotated))
                }
            })
            .await?;
        Ok(Changed {
            value: (new, changed.value),
            reach: changed.reach,
        })
    }

    /// The one way of every change. `commit` is step 2.
    async fn change<T, F>(
        self: Arc<Self>,
        target: Target,
        commit: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) -> Result<Changed<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<Committed<T>, StoreError>> + Send + 'static,
    {
        let driver = Arc::clone(&self);
        let task = self.tasks.spawn(async move {
            // The digests are asked for beforehand: should the answer to the COMMIT be lost, the
            // copies have to go all the same. A failure here has changed nothing.
            let known = deadline::question(LONGEST, driver.store.digests(&target)).await;
            let mut digests = known.inspect_err(|error| driver.note_store(Work::Change, error))?;
            for batch in digests.chunks(BATCH) {
                let fenced =
                    deadline::of_cache(driver.for_validation(), driver.cache.fence(batch)).await;
                if let Err(error) = fenced {
                    driver.note_cache(Work::Set, &error);
                    break;
                }
                driver.cache_did(Work::Set);
            }
            let committed = deadline::change(commit(Arc::clone(&driver))).await;
            if let Ok(committed) = &committed {
                digests.extend(&committed.digests);
            }
            if let Target::Token(gone) = &target
                && digests.is_empty()
            {
                // No row: somebody deleted it, and its copies may be there still.
                digests.push(*gone);
                driver.hold_back_below(None, &digests);
            }
            digests.sort_unstable();
            digests.dedup();
            driver.hold_back(&digests, &committed);
            let reach = driver.unlink(&digests).await;
            let committed = driver.noted(Work::Change, committed)?;
            let reach = if committed.anything {
                reach
            } else {
                Reach::Nothing
            };
            committed.value.map(|value| Changed { value, reach })
        });
        task.await
            .unwrap_or_else(|stopped| Err(Error::Unknown(stopped_in(stopped))))
    }

    /// Until this node reads of its own change in the journal, it believes no copy that is older: not even one that
    /// somebody puts back into the cache after its removal.
    fn hold_back<T>(&self, digests: &[TokenDigest], committed: &Result<Committed<T>, StoreError>) {
        let least = match committed {
            Ok(committed) if committed.anything => committed.least_version,
            Err(error) if error.kind() == StoreErrorKind::Uncertain => None,
            _nothing_was_changed => return,
        };
        self.hold_back_below(least, digests);
    }

    fn hold_back_below(&self, least: Option<i64>, digests: &[TokenDigest]) {
        // Where none is read, nothing would end it.
        if self.needs_the_journal() {
            self.pending.changed(digests, least, Instant::now());
        }
    }

    /// Step 3. A batch at a time: one user may have had thousands of sessions, and each batch has to keep
    /// the cache's deadline. After a failure the rest is left to the task that tries again.
    pub(crate) async fn unlink(self: &Arc<Self>, digests: &[TokenDigest]) -> Reach {
        let committed = self.committed();
        let mut reach = Reach::Propagated;
        for (at, batch) in digests.chunks(BATCH).enumerate() {
            match self.invalidate(batch).await {
                Ok(Invalidated::Everywhere) => {}
                // There is no other process that could have a copy.
                Ok(Invalidated::InThisProcess) if self.store.is_exclusive() => {}
                Ok(Invalidated::Here | Invalidated::InThisProcess) => reach = committed,
                Err(error) => {
                    self.note_cache(Work::Unlink, &error);
                    self.unlink_later(&digests[at * BATCH..]);
                    return committed;
                }
            }
            self.cache_did(Work::Unlink);
        }
        reach
    }

    /// Has these removed as soon as the cache can be asked; until then this node believes none of them.
    pub(crate) fn unlink_later(self: &Arc<Self>, digests: &[TokenDigest]) {
        let life = self.longest_life();
        if self.pending.add(digests, Instant::now(), life) {
            let driver = Arc::clone(self);
            self.tasks
                .spawn(async move { driver.unlink_pending(life).await });
        }
    }

    /// What holds of a change that was committed, whatever Redis does.
    fn committed(&self) -> Reach {
        let timing = self.journal.timing();
        let within = timing.within();
        let longest = self.longest_life().max(within);
        let (within, at_most) = match timing.policy {
            // Nobody reads the journal of such a store: what is not removed dies of age.
            _ if self.store.is_exclusive() => (longest, longest),
            Policy::Available => (within, longest),
            Policy::FailClosed => (within, within),
        };
        Reach::Committed { within, at_most }
    }

    /// How long a copy can live on that nobody removes: what a lease may take, and the TTL.
    pub(crate) fn longest_life(&self) -> Duration {
        self.settings.ttl + LEASE
    }

    /// Goes on unlinking what was not acknowledged, until it is or the copies have died.
    async fn unlink_pending(&self, life: Duration) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
            // Batch after batch while the cache answers; at the first failure, wait again.
            loop {
                let began = Instant::now();
                let Some(batch) = self.pending.next_batch(began) else {
                    return;
                };
                if self.invalidate(&batch).await.is_err() {
                    break;
                }
                self.cache_did(Work::Unlink);
                self.pending.acknowledged(&batch, began, life);
            }
        }
    }
}

/// What step 2 came to.
struct Committed<T> {
    value: Result<T, Error>,
    digests: Vec<TokenDigest>,
    /// Was there anything to change?
    anything: bool,
    /// The least version that is still true; `None`: none, the session has ended.
    least_version: Option<i64>,
}

impl Committed<Session> {
    fn of(change: Change, conflict: Error) -> Self {
        let refused = |error| Self {
            value: Err(error),
            digests: Vec::new(),
            anything: false,
            least_version: None,
        };
        match change {
            Change::Made { session, digests } => Self {
                least_version: Some(session.version()),
                value: Ok(session),
                digests,
                anything: true,
            },
            Change::Conflict => refused(conflict),
            Change::NoSession => refused(Error::NoSession),
        }
    }
}
