//! The store behind its guards: turns, the outer deadlines, and the diagnostics.
//!
//! Every call of a [`SessionStore`] is made here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::engine::admission::{self, Admission, Party, TurnKind};
use crate::engine::deadline::{self, LONGEST_CALL};
use crate::engine::diagnostics::{Diagnostics, Operation};
use crate::engine::metrics::Counters;
use crate::engine::observed_store::ObservedStore;
use crate::engine::settings::Settings;
use crate::engine::tasks::Tasks;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::identity::CacheId;
use crate::model::session::{ListCursor, LoginSnapshot, SessionId, SessionPage, ValidatedSession};
use crate::model::token::TokenDigest;
use crate::store::{
    Change, Creation, EndedUser, JournalPosition, JournalRead, NodeRegistration, ReadResult,
    RegistrationId, RevocationNote, Revoked, SessionStore, StoreId, Target,
};

/// How often a store is probed that has not replied yet, or whose outage may be over.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// A store, and what guards its calls.
#[derive(Debug)]
pub(crate) struct GuardedStore<S> {
    store: S,
    admission: Admission,
    observed: Arc<ObservedStore>,
    settings: Settings,
    counters: Arc<Counters>,
    diagnostics: Arc<Diagnostics>,
}

/// The calls of validations.
impl<S: SessionStore> GuardedStore<S> {
    pub(crate) fn new(
        store: S,
        observed: Arc<ObservedStore>,
        settings: Settings,
        counters: Arc<Counters>,
        diagnostics: Arc<Diagnostics>,
    ) -> Arc<Self> {
        let admission = Admission::new(store.max_concurrent_changes());
        Arc::new(Self { store, admission, observed, settings, counters, diagnostics })
    }

    /// Reads the rows of validations, in one statement. The read is not cancelled while the entries
    /// that it brings may still be of use.
    pub(crate) async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        self.counters.store_reads.add_one();
        self.counters.tokens_read.add(digests.len() as u64);
        let sent = Instant::now();
        let reading = self.store.load(digests);
        let read = deadline::read(self.settings.call_deadline(), reading).await;
        match &read {
            Ok(reply) => self.replied(sent, reply),
            Err(error) => self.diagnostics.read_failed(error),
        }
        read
    }

    /// Records that a session is in use. A failure is recorded, and `None` is returned.
    pub(crate) async fn touch(&self, id: SessionId, granularity: Duration) -> Option<Change> {
        let touching = self.store.touch(id, granularity);
        match deadline::read(self.settings.call_deadline(), touching).await {
            Ok(touched) => {
                self.diagnostics.store_succeeded(Operation::Touch);
                Some(touched)
            }
            Err(error) => {
                self.diagnostics.touch_failed(&error);
                None
            }
        }
    }

    /// Probes the store for as long as the engine lives, while it is not known to reply. Before its
    /// first reply no entry can be checked. Later a probe detects the end of an outage. With a
    /// warm cache no request would detect it.
    pub(crate) async fn keep_probing(self: Arc<Self>, tasks: Tasks) -> Option<()> {
        loop {
            let sent = Instant::now();
            if self.diagnostics.store_needs_a_probe(sent) {
                let reading = self.store.load(&[]);
                let reading = deadline::read(self.settings.call_deadline(), reading);
                match tasks.or_end(reading).await? {
                    Ok(reply) => self.replied(sent, &reply),
                    Err(error) => self.diagnostics.store_unavailable(sent, &error),
                }
            }
            tasks.pause(PROBE_EVERY).await?;
        }
    }

    fn replied(&self, sent: Instant, reply: &ReadResult) {
        self.diagnostics.store_replied(sent);
        self.observed.read(sent, reply);
    }
}

/// Logins, changes and lists. Each one waits for its turn.
impl<S: SessionStore> GuardedStore<S> {
    /// Reads the snapshot of a login that begins now.
    pub(crate) async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.counters.login_reads.add_one();
        let read = deadline::read(LONGEST_CALL, self.store.login_snapshot()).await;
        self.diagnostics.store_called(Operation::Read, read)
    }

    /// Creates a session.
    pub(crate) async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        let user = Party::User(new.user_id.clone());
        let creating = deadline::change(self.store.create(digest, new));
        let created = self.in_turn(TurnKind::Create, user, creating).await;
        self.diagnostics.store_called(Operation::Create, created)
    }

    /// Lists a user's active sessions.
    pub(crate) async fn list(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        let user = Party::User(user_id.to_owned());
        let listing = deadline::read(LONGEST_CALL, self.store.list(user_id, after, limit));
        let listed = self.in_turn(TurnKind::List, user, listing).await;
        self.diagnostics.store_called(Operation::Read, listed)
    }

    /// Reads the digests of the session that a change is about.
    pub(crate) async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        let reading = deadline::read(LONGEST_CALL, self.store.digests(target));
        let read = self.in_turn(TurnKind::LookUp, Party::from(target), reading).await;
        read.inspect_err(|error| self.diagnostics.store_failed(Operation::Change, error))
    }

    /// Reads the session of a token before a change. A failure is not recorded here, because the
    /// change that follows fails as well and is recorded.
    pub(crate) async fn load_before_change(
        &self,
        digest: TokenDigest,
    ) -> Result<ReadResult, StoreError> {
        let digests = [digest];
        let reading = deadline::read(self.settings.call_deadline(), self.store.load(&digests));
        self.in_turn(TurnKind::LookUp, Party::Token(digest), reading).await
    }

    /// Ends sessions.
    pub(crate) async fn revoke(
        &self,
        target: &Target,
        note: &RevocationNote,
    ) -> Result<Revoked, StoreError> {
        self.change(Party::from(target), self.store.revoke(target, note)).await
    }

    /// Replaces the data of a session whose version is still `version`.
    pub(crate) async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        self.change(Party::Session(id), self.store.update(id, version, data)).await
    }

    /// Gives the session under `old` a new digest.
    pub(crate) async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        self.change(Party::Token(old), self.store.rotate(old, new, grace)).await
    }

    async fn change<T>(
        &self,
        party: Party,
        changing: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let changed = self.in_turn(TurnKind::Change, party, deadline::change(changing)).await;
        self.diagnostics.store_called(Operation::Change, changed)
    }

    /// Marks the next rows of sessions that a user's epoch has ended.
    pub(crate) async fn end_rows(
        &self,
        user: &EndedUser,
        note: &RevocationNote,
        after: Option<ListCursor>,
    ) -> Result<Option<ListCursor>, StoreError> {
        let party = Party::User(user.user_id.clone());
        let ending = deadline::change(self.store.end_rows(user, note, after));
        let ended = self.in_turn(TurnKind::Change, party, ending).await;
        self.background("marking ended sessions", ended)
    }

    /// Deletes rows of the user's sessions that have ended. Returns how many.
    pub(crate) async fn erase_sessions(&self, user_id: &str, most: u32) -> Result<u64, StoreError> {
        let user = Party::User(user_id.to_owned());
        self.change(user, self.store.erase_sessions(user_id, most)).await
    }

    /// Returns the error of a login that was shed, and records it.
    pub(crate) fn shed_login(&self) -> StoreError {
        self.counters.changes_shed.add_one();
        let shed = admission::shed();
        self.diagnostics.store_failed(Operation::Read, &shed);
        shed
    }

    /// Returns how many callers wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    async fn in_turn<T>(
        &self,
        kind: TurnKind,
        party: Party,
        query: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let reply = self.admission.run(kind, party, self.settings.change_wait, query).await;
        reply.unwrap_or_else(|| {
            self.counters.changes_shed.add_one();
            Err(admission::shed())
        })
    }
}

/// Background work.
impl<S: SessionStore> GuardedStore<S> {
    /// Reads one page of the journal. If the store hangs or panics, `position` is reset. The
    /// progress of such a store is unknown, so the next read is of the whole journal.
    pub(crate) async fn journal_since(
        &self,
        position: &mut Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let reading = self.store.journal_since(position.as_ref());
        let read = match deadline::run(LONGEST_CALL, reading).await {
            Ok(read) => read,
            Err(interrupted) => {
                *position = None;
                Err(interrupted.of_read())
            }
        };
        self.background("reading the journal", read)
    }

    /// Records which cache this node serves entries from.
    pub(crate) async fn register_node(
        &self,
        node: &NodeRegistration,
    ) -> Result<Option<StoreId>, StoreError> {
        let registered = deadline::read(LONGEST_CALL, self.store.register_node(node)).await;
        self.background("registering this node", registered)
    }

    /// Removes a registration of this node. Returns whether it was removed.
    pub(crate) async fn forget_node(&self, id: RegistrationId) -> bool {
        let forgetting = self.store.forget_node(id);
        let forgotten = deadline::read(self.settings.call_deadline(), forgetting).await;
        if let Err(error) = &forgotten {
            // It expires by itself.
            tracing::debug!(%error, "a registration of this node is left in the store");
        }
        forgotten.is_ok()
    }

    /// Returns whether all registered nodes serve entries from this cache. An error counts as no.
    pub(crate) async fn is_one_cache(&self, cache: &CacheId) -> bool {
        let reading = self.store.is_one_cache(cache);
        deadline::read(self.settings.validation_timeout, reading).await.unwrap_or(false)
    }

    /// Purges old journal rows. Returns how many, or `None` after a failure.
    pub(crate) async fn purge_journal(&self, keep: Duration) -> Option<u64> {
        let purged = deadline::read(LONGEST_CALL, self.store.purge_journal(keep)).await;
        self.background("purging the journal", purged).ok()
    }

    /// Deletes ended sessions. Returns how many, or `None` after a failure.
    pub(crate) async fn sweep(&self, retention: Duration, limit: u32) -> Option<u64> {
        let swept = deadline::read(LONGEST_CALL, self.store.sweep(retention, limit)).await;
        self.background("sweeping ended sessions", swept).ok()
    }

    /// Removes what is kept of users without sessions. Returns the last user that was examined, or
    /// `None` after the last one. The outer `None` is a failure.
    pub(crate) async fn sweep_users(
        &self,
        retention: Duration,
        after: Option<&str>,
        limit: u32,
    ) -> Option<Option<String>> {
        let sweeping = self.store.sweep_users(retention, after, limit);
        let swept = deadline::read(LONGEST_CALL, sweeping).await;
        Some(self.background("sweeping users", swept).ok()?.last)
    }

    fn background<T>(
        &self,
        work: &'static str,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        outcome.inspect_err(|error| self.diagnostics.background_failed(work, error))
    }
}

/// Calls without a guard of their own.
impl<S: SessionStore> GuardedStore<S> {
    /// Returns whether no other process can change or read the store.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.store.is_exclusive()
    }

    /// Returns the store's name for the health document.
    pub(crate) fn backend(&self) -> &'static str {
        self.store.backend()
    }

    /// Returns whether the store can answer validations now.
    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }

    /// Closes the connections.
    pub(crate) async fn close(&self) {
        self.store.close().await;
    }
}

/// Returns the error of a read that was shed because its reply would come too late.
pub(crate) fn shed_read() -> StoreError {
    StoreError::new(
        StoreErrorKind::Shed,
        "load was shed: a read would have ended after the validation timeout: raise \
         `SessionsBuilder::max_concurrent_reads`, or find out what slows Postgres down",
    )
}
