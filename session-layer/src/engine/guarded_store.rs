//! The store behind its guards: turns, the outer deadlines, and the diagnostics.
//!
//! Every call of a [`SessionStore`] is made here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use crate::engine::admission::{self, Admission, Party, TurnKind};
use crate::engine::deadline::{self, LONGEST_CALL};
use crate::engine::diagnostics::{Diagnostics, Operation};
use crate::engine::instruments::StoreCall;
use crate::engine::metrics::Counters;
use crate::engine::observed_store::ObservedStore;
use crate::engine::pause::Pause;
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::tasks::Tasks;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::identity::CacheId;
use crate::model::session::{ListCursor, LoginSnapshot, SessionId, SessionPage, ValidatedSession};
use crate::model::token::TokenDigest;
#[cfg(feature = "metrics")]
use crate::store::PoolStatus;
use crate::store::{
    Change, Creation, EndedUser, JournalPosition, JournalRead, NodeRegistration, ReadResult,
    RegistrationId, RevocationNote, Revoked, SessionStore, StoreId, Target,
};

/// How often a store is probed that has not replied yet, or whose outage may be over.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// How often the idle connections of a paused node are closed.
const CLOSE_IDLE_EVERY: Duration = Duration::from_secs(30);

/// A store, and what guards its calls.
#[derive(Debug)]
pub(crate) struct GuardedStore<S> {
    store: S,
    admission: Admission,
    observed: Arc<ObservedStore>,
    settings: Settings,
    counters: Arc<Counters>,
    diagnostics: Arc<Diagnostics>,
    pause: Arc<Pause>,
}

/// The calls of validations.
impl<S: SessionStore> GuardedStore<S> {
    pub(crate) fn new(
        store: S,
        observed: Arc<ObservedStore>,
        settings: Settings,
        counters: Arc<Counters>,
        diagnostics: Arc<Diagnostics>,
        pause: Arc<Pause>,
    ) -> Arc<Self> {
        let admission = Admission::new(store.max_concurrent_changes());
        Arc::new(Self { store, admission, observed, settings, counters, diagnostics, pause })
    }

    /// Reads the rows of validations, in one statement. The read is not cancelled while the entries
    /// that it brings may still be of use.
    pub(crate) async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        self.counters.store_reads.add_one();
        self.counters.tokens_read.add(digests.len() as u64);
        let sent = Instant::now();
        let reading = self.store.load(digests);
        let reading = deadline::read(self.settings.call_deadline(), reading);
        let read = self.called(StoreCall::Load, self.sent(StoreCall::Load, reading)).await;
        match &read {
            Ok(reply) => self.replied(sent, reply),
            Err(error) => self.diagnostics.read_failed(error),
        }
        read
    }

    /// Records that a session is in use. A failure is recorded, and `None` is returned.
    pub(crate) async fn touch(&self, id: SessionId, granularity: Duration) -> Option<Change> {
        self.counters.touches.add_one();
        let touching = self.store.touch(id, granularity);
        let touching = deadline::read(self.settings.call_deadline(), touching);
        let touching = self.sent(StoreCall::Touch, touching);
        match self.called(StoreCall::Touch, touching).await {
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
            tasks.or_end(self.rest()).await?;
            let sent = Instant::now();
            if self.diagnostics.store_needs_a_probe(sent) {
                let reading = self.store.load(&[]);
                let reading = deadline::read(self.settings.call_deadline(), reading);
                let reading = self.called(StoreCall::Load, self.sent(StoreCall::Load, reading));
                let reading = reading.instrument(spans::background("probe"));
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
        self.pause.request_came();
        self.counters.login_reads.add_one();
        let reading = deadline::read(LONGEST_CALL, self.store.login_snapshot());
        let reading = self.sent(StoreCall::LoginSnapshot, reading);
        let read = self.called(StoreCall::LoginSnapshot, reading).await;
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
        let creating = self.sent(StoreCall::Create, creating);
        let creating = self.in_turn(TurnKind::Create, user, creating);
        let created = self.called(StoreCall::Create, creating).await;
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
        let listing = self.sent(StoreCall::List, listing);
        let listing = self.in_turn(TurnKind::List, user, listing);
        let listing = self.called(StoreCall::List, listing);
        let listed = spans::within(spans::list(), listing).await;
        self.diagnostics.store_called(Operation::Read, listed)
    }

    /// Reads the digests of the session that a change is about.
    pub(crate) async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        let reading = deadline::read(LONGEST_CALL, self.store.digests(target));
        let reading = self.sent(StoreCall::Digests, reading);
        let reading = self.in_turn(TurnKind::LookUp, Party::from(target), reading);
        let read = self.called(StoreCall::Digests, reading).await;
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
        let reading = self.sent(StoreCall::Load, reading);
        let reading = self.in_turn(TurnKind::LookUp, Party::Token(digest), reading);
        self.called(StoreCall::Load, reading).await
    }

    /// Ends sessions.
    pub(crate) async fn revoke(
        &self,
        target: &Target,
        note: &RevocationNote,
    ) -> Result<Revoked, StoreError> {
        let revoking = self.store.revoke(target, note);
        self.change(StoreCall::Revoke, Party::from(target), revoking).await
    }

    /// Replaces the data of a session whose version is still `version`.
    pub(crate) async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        let updating = self.store.update(id, version, data);
        self.change(StoreCall::Update, Party::Session(id), updating).await
    }

    /// Gives the session under `old` a new digest.
    pub(crate) async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        let rotating = self.store.rotate(old, new, grace);
        self.change(StoreCall::Rotate, Party::Token(old), rotating).await
    }

    async fn change<T>(
        &self,
        call: StoreCall,
        party: Party,
        changing: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let changing = self.sent(call, deadline::change(changing));
        let changing = self.in_turn(TurnKind::Change, party, changing);
        let changed = self.called(call, changing).await;
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
        let ending = self.sent(StoreCall::Housekeeping, ending);
        let ending = self.in_turn(TurnKind::Change, party, ending);
        let ended = self.called(StoreCall::Housekeeping, ending).await;
        self.background("marking ended sessions", ended)
    }

    /// Deletes rows of the user's sessions that have ended. Returns how many.
    pub(crate) async fn erase_sessions(&self, user_id: &str, most: u32) -> Result<u64, StoreError> {
        let user = Party::User(user_id.to_owned());
        let erasing = self.store.erase_sessions(user_id, most);
        self.change(StoreCall::Housekeeping, user, erasing).await
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
        self.pause.request_came();
        let reply = self.admission.run(kind, party, self.settings.change_wait, query).await;
        reply.unwrap_or_else(|| {
            self.counters.changes_shed.add_one();
            Err(admission::shed())
        })
    }
}

/// Background work.
impl<S: SessionStore> GuardedStore<S> {
    /// Returns whether this node sends nothing to the store until a request comes.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_paused()
    }

    /// Waits until this node is not paused. A loop calls this when it has no statement in flight,
    /// before it sends the next one by itself. Idle connections are closed meanwhile, also those of
    /// a probe, or of a statement that ended later.
    pub(crate) async fn rest(&self) {
        while self.pause.is_paused() {
            // If it fails, the connections stay open.
            let _ = deadline::run(self.settings.call_deadline(), self.store.close_idle()).await;
            let _awake_since = timeout(CLOSE_IDLE_EVERY, self.pause.ended()).await;
        }
    }

    /// Reads one page of the journal. If the store hangs or panics, `position` is reset. The
    /// progress of such a store is unknown, so the next read is of the whole journal.
    pub(crate) async fn journal_since(
        &self,
        position: &mut Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let reading = self.store.journal_since(position.as_ref());
        let mut is_interrupted = false;
        let reading = async {
            deadline::run(LONGEST_CALL, reading).await.unwrap_or_else(|interrupted| {
                is_interrupted = true;
                Err(interrupted.of_read())
            })
        };
        let reading = self.sent(StoreCall::Journal, reading);
        let read = self.called(StoreCall::Journal, reading).await;
        if is_interrupted {
            *position = None;
        }
        self.background("reading the journal", read)
    }

    /// Records which cache this node serves entries from.
    pub(crate) async fn register_node(
        &self,
        node: &NodeRegistration,
    ) -> Result<Option<StoreId>, StoreError> {
        let registering = deadline::read(LONGEST_CALL, self.store.register_node(node));
        let registering = self.sent(StoreCall::Register, registering);
        let registering = self.called(StoreCall::Register, registering);
        let registered = registering.instrument(spans::background("register")).await;
        self.background("registering this node", registered)
    }

    /// Removes a registration of this node. Returns whether it was removed.
    pub(crate) async fn forget_node(&self, id: RegistrationId) -> bool {
        let forgetting = self.store.forget_node(id);
        let forgetting = deadline::read(self.settings.call_deadline(), forgetting);
        let forgetting = self.sent(StoreCall::Register, forgetting);
        let forgetting = self.called(StoreCall::Register, forgetting);
        let forgotten = forgetting.instrument(spans::background("register")).await;
        if let Err(error) = &forgotten {
            // It expires by itself.
            tracing::debug!(%error, "a registration of this node is left in the store");
        }
        forgotten.is_ok()
    }

    /// Returns whether all registered nodes serve entries from this cache. An error counts as no.
    pub(crate) async fn is_one_cache(&self, cache: &CacheId) -> bool {
        let reading = self.store.is_one_cache(cache);
        let reading = deadline::read(self.settings.validation_timeout, reading);
        let reading = self.sent(StoreCall::Register, reading);
        self.called(StoreCall::Register, reading).await.unwrap_or(false)
    }

    /// Purges old journal rows. Returns how many, or `None` after a failure.
    pub(crate) async fn purge_journal(&self, keep: Duration) -> Option<u64> {
        let purging = deadline::read(LONGEST_CALL, self.store.purge_journal(keep));
        let purging = self.sent(StoreCall::Housekeeping, purging);
        let purged = self.called(StoreCall::Housekeeping, purging).await;
        self.background("purging the journal", purged).ok()
    }

    /// Deletes ended sessions. Returns how many, or `None` after a failure.
    pub(crate) async fn sweep(&self, retention: Duration, limit: u32) -> Option<u64> {
        let sweeping = deadline::read(LONGEST_CALL, self.store.sweep(retention, limit));
        let sweeping = self.sent(StoreCall::Housekeeping, sweeping);
        let swept = self.called(StoreCall::Housekeeping, sweeping).await;
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
        let sweeping = deadline::read(LONGEST_CALL, sweeping);
        let sweeping = self.sent(StoreCall::Housekeeping, sweeping);
        let swept = self.called(StoreCall::Housekeeping, sweeping).await;
        Some(self.background("sweeping users", swept).ok()?.last)
    }

    fn called<'a, T: 'a>(
        &'a self,
        call: StoreCall,
        calling: impl Future<Output = Result<T, StoreError>> + 'a,
    ) -> impl Future<Output = Result<T, StoreError>> + 'a {
        self.counters.instruments.store_called(call, calling)
    }

    /// Sends a call in a span of its own, which does not contain the wait for a turn.
    ///
    /// The call gets an allocation of its own. Each `async fn` around it has room for it twice, and
    /// a call of Postgres takes kilobytes.
    fn sent<'a, T: 'a>(
        &'a self,
        call: StoreCall,
        calling: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'a {
        let calling = calling.boxed();
        async move { spans::within(spans::stored(self.store.backend(), call), calling).await }
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

    /// Returns the store's remarks for the health document.
    pub(crate) fn remarks(&self) -> Vec<String> {
        self.store.remarks()
    }

    /// Returns whether the store can answer validations now.
    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }

    /// Returns the store's pools of connections.
    #[cfg(feature = "metrics")]
    pub(crate) fn pools(&self) -> Vec<PoolStatus> {
        self.store.pools()
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
