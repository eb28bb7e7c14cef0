//! Changes of sessions: revoke, update, rotate and create. Fence, COMMIT with journal, UNLINK.
//!
//! 0. The store is read for the digests of the session. An unknown session costs this one read.
//! 1. Fences keep new fills away, as far as the cache accepts them. They make races rarer, and no
//!    promise depends on them.
//! 2. The store changes the row and writes the journal in one transaction.
//! 3. The entries are invalidated, also if nothing had to be changed, and also if the outcome of
//!    the COMMIT is unknown. The cache may not acknowledge it. Then it is repeated in the
//!    background.
//!
//! The response states from when on every node honors the change ([`Visibility`]). The whole change
//! runs in a task of its own, so a client that leaves can't stop it between COMMIT and UNLINK.

mod visibility;
mod waiting;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tracing::Instrument as _;

pub use self::visibility::{Applied, Visibility};
use crate::cache::{CacheIdentity, Invalidated, SessionCache};
use crate::engine::freshness::Freshness;
use crate::engine::guarded_cache::GuardedCache;
use crate::engine::guarded_store::GuardedStore;
use crate::engine::instruments::{ChangeKind, ChangeResult};
use crate::engine::invalidator::Invalidator;
use crate::engine::metrics::Counters;
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::staleness::PartitionPolicy;
use crate::engine::tasks::{KeepLoops, Tasks};
use crate::model::error::{Error, StoreError, StoreErrorKind};
use crate::model::session::{Session, SessionId, ValidatedSession};
use crate::model::token::{SessionToken, TokenDigest};
use crate::store::{Change, Creation, EndedUser, RevocationNote, Revoked, SessionStore, Target};

/// How many rows of an erased user are deleted at once: about 10 ms.
const ERASED_AT_ONCE: u32 = 500;

/// The revocations, updates, rotations and creations of one engine.
#[derive(Debug)]
pub(crate) struct Changes<C, S> {
    pub(crate) cache: Arc<GuardedCache<C>>,
    pub(crate) store: Arc<GuardedStore<S>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) invalidator: Arc<Invalidator<C>>,
    pub(crate) settings: Settings,
    pub(crate) tasks: Tasks,
    /// A change that no caller waits for any more still needs the journal.
    pub(crate) _keep_loops: KeepLoops,
}

/// The steps of every change.
impl<C: SessionCache, S: SessionStore> Changes<C, S> {
    /// Makes a change. `commit` is step 2. `unknown` is the result if there is no such session.
    async fn change<T, F>(
        self: Arc<Self>,
        kind: ChangeKind,
        target: Target,
        unknown: impl FnOnce() -> Result<T, Error> + Send + 'static,
        commit: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) -> Result<Applied<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<CommitOutcome<T>, StoreError>> + Send + 'static,
    {
        let changes = Arc::clone(&self);
        let span = spans::change(kind);
        let task = self.tasks.spawn(async move {
            let outcome = changes.make(target, unknown, commit).instrument(span.clone()).await;
            let result = result_of(&outcome);
            changes.counters.instruments.changed(kind, result);
            spans::changed(&span, result);
            outcome
        });
        task.await.unwrap_or_else(|stopped| Err(unknown_outcome(stopped)))
    }

    async fn make<T, F>(
        self: &Arc<Self>,
        target: Target,
        unknown: impl FnOnce() -> Result<T, Error>,
        commit: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<Applied<T>, Error>
    where
        F: Future<Output = Result<CommitOutcome<T>, StoreError>>,
    {
        // The digests are read before the COMMIT. If its reply is lost, the entries must still
        // be invalidated. A failure here has changed nothing. A user may have a million
        // sessions, whose digests are read after the COMMIT.
        let is_user = matches!(target, Target::User { .. });
        let mut digests = if is_user { Vec::new() } else { self.store.digests(&target).await? };
        // A user without sessions may have a login under way, which this must end.
        if digests.is_empty() && !is_user {
            if let Target::Token(token) = target {
                // Its row may have been deleted, and its entry may still be there.
                self.freshness.changed_here(&[token], None);
                let _ = self.invalidator.invalidate(&[token]).await;
            }
            return unknown().map(|value| Applied { value, visibility: Visibility::Nothing });
        }
        self.cache.fence(&digests).await;
        let committed = commit(Arc::clone(self)).await;
        if let Ok(committed) = &committed {
            digests.extend(&committed.digests);
        }
        digests.sort_unstable();
        digests.dedup();
        self.reject_older_entries(&digests, &committed);
        let visibility = self.invalidate_everywhere(&digests).await;
        let committed = committed?;
        let visibility = match committed.changed_a_session {
            true if committed.has_all_digests => visibility,
            true => self.journal_bounds(),
            false => Visibility::Nothing,
        };
        committed.value.map(|value| Applied { value, visibility })
    }

    /// Makes this node reject older entries until it reads its own change in the journal, also
    /// those that another client writes back to the cache.
    fn reject_older_entries<T>(
        &self,
        digests: &[TokenDigest],
        committed: &Result<CommitOutcome<T>, StoreError>,
    ) {
        let least_version = match committed {
            Ok(committed) if committed.changed_a_session => committed.least_version,
            Err(error) if error.kind() == StoreErrorKind::Uncertain => None,
            _nothing_was_changed => return,
        };
        self.freshness.changed_here(digests, least_version);
    }

    /// Invalidates the entries, and returns from when on every node honors the change. It is now
    /// only if all nodes serve entries from one cache.
    async fn invalidate_everywhere(&self, digests: &[TokenDigest]) -> Visibility {
        let cache = self.cache.identity();
        // Both after the COMMIT.
        let (removed, is_one_cache) =
            tokio::join!(self.invalidator.invalidate(digests), self.is_one_cache(cache));
        match removed {
            // No other process can have an entry.
            Some(Invalidated::InThisProcess | Invalidated::Everywhere)
                if self.store.is_exclusive() =>
            {
                Visibility::Propagated
            }
            Some(Invalidated::Everywhere) if is_one_cache && self.cache.identity() == cache => {
                Visibility::Propagated
            }
            _ => self.journal_bounds(),
        }
    }

    /// Returns whether an invalidation in this cache reaches every node. Ask after the COMMIT.
    async fn is_one_cache(&self, cache: CacheIdentity) -> bool {
        match (cache, self.freshness.registry.id_of(cache)) {
            (CacheIdentity::Shared(_), Some(id)) => self.store.is_one_cache(&id).await,
            _ => false,
        }
    }

    /// Returns the bounds of a change that was committed, whatever Redis does.
    fn journal_bounds(&self) -> Visibility {
        let timing = self.freshness.journal.timing();
        let bound = timing.staleness_bound();
        let longest = self.settings.longest_entry_life().max(bound);
        let (within, at_most) = match timing.policy {
            // No node reads the journal of such a store. An entry that is not removed expires.
            _ if self.store.is_exclusive() => (longest, longest),
            PartitionPolicy::Available => (bound, longest),
            PartitionPolicy::FailClosed => (bound, bound),
        };
        Visibility::Committed { within, at_most }
    }
}

/// Revocations.
impl<C: SessionCache, S: SessionStore> Changes<C, S> {
    /// Ends sessions. Returns how many were active.
    pub(crate) async fn revoke(
        self: Arc<Self>,
        target: Target,
        note: RevocationNote,
    ) -> Result<Applied<u64>, Error> {
        let no_session = || Ok(0);
        self.change(ChangeKind::Revoke, target.clone(), no_session, move |changes| async move {
            let Revoked { ended, found, digests, complete, user } =
                changes.store.revoke(&target, &note).await?;
            changes.counters.instruments.ended(&note.reason, ended);
            if let Some(user) = user {
                changes.freshness.journal.raised(&user);
                changes.end_rows_in_background(user, note);
            }
            Ok(CommitOutcome {
                value: Ok(ended),
                digests,
                has_all_digests: complete,
                changed_a_session: found > 0,
                least_version: None,
            })
        })
        .await
    }

    /// Ends all of a user's sessions, and deletes their rows. Returns how many rows.
    ///
    /// The rows go after the COMMIT of the raise, which is what ends the sessions. The user's row
    /// stays. The visibility is that of the journal's row `user`: an earlier call may have deleted
    /// rows whose entries are still in the cache, and their digests are known no more.
    pub(crate) async fn erase_user(
        self: Arc<Self>,
        user_id: String,
        note: RevocationNote,
    ) -> Result<Applied<u64>, Error> {
        let target = Target::User { user_id: user_id.clone(), keep: None };
        let changes = Arc::clone(&self);
        let erasing = async move {
            let _ended = Arc::clone(&changes).revoke(target, note).await?;
            let mut value = 0;
            loop {
                let erased = changes.store.erase_sessions(&user_id, ERASED_AT_ONCE).await?;
                value += erased;
                if erased < u64::from(ERASED_AT_ONCE) {
                    let visibility = changes.journal_bounds();
                    return Ok(Applied { value, visibility });
                }
            }
        };
        let task = self.tasks.spawn(spans::within(spans::erase(), erasing));
        task.await.unwrap_or_else(|stopped| Err(unknown_outcome(stopped)))
    }

    /// Marks the rows of sessions that a user's epoch has ended, a page at a time. After a failure
    /// the rest stays as it is: the sessions have ended, and their rows are deleted when they
    /// expire.
    fn end_rows_in_background(&self, user: EndedUser, note: RevocationNote) {
        let (store, tasks) = (Arc::clone(&self.store), self.tasks.clone());
        let ending = async move {
            let mut after = None;
            while let Some(Ok(Some(last))) =
                tasks.or_shutdown(store.end_rows(&user, &note, after.take())).await
            {
                after = Some(last);
            }
        };
        self.tasks.spawn(ending.instrument(spans::background("end_rows")));
    }
}

/// Updates, rotations and creations.
impl<C: SessionCache, S: SessionStore> Changes<C, S> {
    /// Replaces the data of a session whose version is still `version`.
    pub(crate) async fn update(
        self: Arc<Self>,
        id: SessionId,
        version: i64,
        data: Box<RawValue>,
    ) -> Result<Applied<Session>, Error> {
        let no_session = || Err(Error::NoSession);
        self.change(ChangeKind::Update, Target::Id(id), no_session, move |changes| async move {
            let change = changes.store.update(id, version, &data).await?;
            Ok(CommitOutcome::of(change, Error::VersionConflict))
        })
        .await
    }

    /// Gives the session under `old` a new token.
    pub(crate) async fn rotate(
        self: Arc<Self>,
        old: TokenDigest,
        new: SessionToken,
        grace: Duration,
    ) -> Result<Applied<(SessionToken, Session)>, Error> {
        let (no_session, digest) = (|| Err(Error::NoSession), new.digest());
        let (kind, old_token) = (ChangeKind::Rotate, Target::Token(old));
        let rotated = self.change(kind, old_token, no_session, move |changes| async move {
            let change = changes.store.rotate(old, digest, grace).await?;
            Ok(CommitOutcome::of(change, Error::AlreadyRotated))
        });
        let Applied { value, visibility } = rotated.await?;
        Ok(Applied { value: (new, value), visibility })
    }

    /// Creates a session. The entry of a token that was issued elsewhere is invalidated: the token
    /// may have had another session, which direct SQL has deleted.
    pub(crate) async fn create(
        self: Arc<Self>,
        digest: TokenDigest,
        new: ValidatedSession,
        issued_here: bool,
    ) -> Result<Creation, Error> {
        let changes = Arc::clone(&self);
        let span = spans::create();
        let created = span.clone();
        // It has a task of its own, as every change. A shutdown waits for it.
        let creating = async move {
            let created = changes.store.create(digest, &new).await;
            if let Ok(Creation::Created(session)) = &created {
                changes.counters.instruments.created();
                if changes.settings.trace_ids {
                    spans::record_ids(&span, session);
                }
            }
            // Also if the outcome is unknown.
            if !issued_here {
                let _ = changes.invalidator.invalidate(&[digest]).await;
            }
            Ok(created?)
        };
        let task = self.tasks.spawn(spans::within(created, creating));
        task.await.unwrap_or_else(|stopped| Err(unknown_outcome(stopped)))
    }
}

fn result_of<T>(outcome: &Result<Applied<T>, Error>) -> ChangeResult {
    match outcome {
        Ok(applied) => match applied.visibility {
            Visibility::Nothing => ChangeResult::Nothing,
            Visibility::Propagated => ChangeResult::Propagated,
            Visibility::Committed { .. } => ChangeResult::Committed,
        },
        Err(Error::Unavailable(_)) => ChangeResult::Unavailable,
        Err(Error::Unknown(_)) => ChangeResult::Unknown,
        Err(_) => ChangeResult::Rejected,
    }
}

/// Returns the error of a change whose task was stopped, which happens only with its runtime.
fn unknown_outcome(task: tokio::task::JoinError) -> Error {
    let why = "the task making the change was stopped";
    Error::Unknown(StoreError::new(StoreErrorKind::Uncertain, why).with_source(task))
}

/// The result of step 2.
struct CommitOutcome<T> {
    value: Result<T, Error>,
    digests: Vec<TokenDigest>,
    /// Whether these are all digests under which there may be entries.
    has_all_digests: bool,
    /// Whether there was a session to change.
    changed_a_session: bool,
    /// The least version that is still current. `None`: the session has ended.
    least_version: Option<i64>,
}

impl CommitOutcome<Session> {
    fn of(change: Change, conflict: Error) -> Self {
        let rejected = |error| Self {
            value: Err(error),
            digests: Vec::new(),
            has_all_digests: true,
            changed_a_session: false,
            least_version: None,
        };
        match change {
            Change::Made { session, digests } => Self {
                least_version: Some(session.version()),
                value: Ok(session),
                digests,
                has_all_digests: true,
                changed_a_session: true,
            },
            Change::Conflict => rejected(conflict),
            Change::NoSession => rejected(Error::NoSession),
        }
    }
}
