//! A store whose calls can be held, slow or broken.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use serde_json::value::RawValue;
use session_layer::cache::CacheId;
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, NodeRegistration, ReadResult, RegistrationId,
    RevocationNote, Revoked, Row, SessionStore, StoreId, Target, ValidatedSession,
};
use session_layer::{ListCursor, LoginSnapshot, SessionId, SessionPage, Timestamp, TokenDigest};
use tokio::sync::Semaphore;

use super::calls::Calls;
use super::{digest, session};

/// A user with more sessions than the store returns the digests of.
pub(crate) const CROWD: &str = "crowd";

pub(super) const STORE_ID: StoreId = [7; 16];

/// The calls that are made in the background.
const BACKGROUND: [&str; 9] =
    ["learn", "journal", "register", "forget", "purge", "sweep", "touch", "probe", "close_idle"];

/// A store in memory, in which every token is a session of alice. Clones share its state.
#[derive(Clone)]
pub(crate) struct Store(Arc<Inner>);

struct Inner {
    calls: Calls,
    state: Mutex<State>,
    /// A read acquires one of these before it returns. A store that is not held has plenty.
    passes: Semaphore,
    /// The same for changes, logins and lists.
    call_passes: Semaphore,
    /// The same for touches.
    touch_passes: Semaphore,
}

#[derive(Default)]
pub(crate) struct State {
    /// The users of some tokens.
    pub(crate) users: HashMap<TokenDigest, String>,
    /// Whether tokens without a user are unknown.
    pub(crate) empty: bool,
    pub(crate) absent: HashSet<TokenDigest>,
    pub(crate) ended: HashSet<TokenDigest>,
    /// Whether every read fails.
    pub(crate) down: bool,
    /// The duration of reads, changes, logins and lists.
    pub(crate) takes: Duration,
    /// Whether other nodes use the store, so that its journal is read.
    pub(crate) shared: bool,
    /// How far its clock was stepped.
    pub(crate) ahead: Duration,
    /// The idle timeout of all sessions. Their last recorded use is half of it ago.
    pub(crate) idle: Option<Duration>,
    /// Whether registrations fail.
    pub(crate) refuses_nodes: bool,
    /// Whether another node serves entries from another cache.
    pub(crate) other_cache: bool,
    /// Whether reads and the journal come from two servers.
    pub(crate) journal_elsewhere: bool,
    pub(crate) nodes: Vec<NodeRegistration>,
    /// The housekeeping calls with their retention. The first call of each kind fails.
    pub(crate) cleaned: Vec<(&'static str, Duration)>,
    /// What was to be revoked, and why.
    pub(crate) revocations: Vec<(Target, String)>,
    /// How many of the next revocations fail and change nothing.
    pub(crate) outages: usize,
    /// To how many of the next revocations the reply is lost.
    pub(crate) lost_replies: usize,
    /// The positions at which the reads of the journal began.
    pub(crate) positions: Vec<Option<JournalPosition>>,
    /// The mutant: a read of a token that is being read gets that read's reply.
    pub(crate) joined: Option<HashMap<TokenDigest, InFlight>>,
    reads: Vec<Vec<TokenDigest>>,
    in_flight: usize,
    most: usize,
}

type InFlight = Shared<BoxFuture<'static, Result<ReadResult, Arc<StoreError>>>>;

impl Store {
    /// Creates a store whose calls return at once.
    pub(crate) fn new() -> Self {
        let plenty = || Semaphore::new(Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            calls: Calls::default(),
            state: Mutex::default(),
            passes: plenty(),
            call_passes: plenty(),
            touch_passes: Semaphore::new(0),
        }))
    }

    /// Creates a store whose reads wait until they are released.
    pub(crate) fn held() -> Self {
        let store = Self::new();
        store.0.passes.forget_permits(Semaphore::MAX_PERMITS);
        store
    }

    /// Creates a store that other nodes use as well.
    pub(crate) fn shared() -> Self {
        let store = Self::new();
        store.state().shared = true;
        store
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub(crate) fn port_calls(&self) -> &Calls {
        &self.0.calls
    }

    /// Returns the calls of changes, logins and lists so far, and of `close`.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        let mut calls = self.0.calls.made();
        calls.retain(|call| *call != "load" && !BACKGROUND.contains(call));
        calls
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.0.calls.count(call)
    }

    pub(crate) fn let_pass(&self, reads: usize) {
        self.0.passes.add_permits(reads);
    }

    /// Holds changes, logins and lists until they are released.
    pub(crate) fn hold_calls(&self) {
        self.0.call_passes.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_calls_pass(&self, calls: usize) {
        self.0.call_passes.add_permits(calls);
    }

    pub(crate) fn let_touches_pass(&self, touches: usize) {
        self.0.touch_passes.add_permits(touches);
    }

    /// Ends the session of token `n`.
    pub(crate) fn end(&self, n: usize) {
        self.state().ended.insert(digest(n));
    }

    /// Removes the session of token `n`.
    pub(crate) fn remove(&self, n: usize) {
        self.state().absent.insert(digest(n));
    }

    /// Returns the number of tokens in each read, in the order in which the reads began.
    pub(crate) fn reads(&self) -> Vec<usize> {
        self.state().reads.iter().map(Vec::len).collect()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    /// Returns the maximum number of concurrent reads, as the store counted them.
    pub(crate) fn most(&self) -> usize {
        self.state().most
    }

    /// Begins a change, a login or a list, and waits until it is released.
    async fn begin(&self, call: &'static str) {
        self.0.calls.begin(call).await;
        self.wait().await;
        self.0.call_passes.acquire().await.unwrap().forget();
    }

    async fn wait(&self) {
        let takes = self.state().takes;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::now().after(self.state().ahead)
    }

    fn clean(&self, what: &'static str, keep: Duration) -> Result<u64, StoreError> {
        let mut state = self.state();
        let first = state.cleaned.iter().all(|(which, _)| *which != what);
        state.cleaned.push((what, keep));
        if first { Err(failed()) } else { Ok(0) }
    }

    /// Returns the digest of a session that was read before.
    fn with_id(&self, id: SessionId) -> Option<TokenDigest> {
        let read = self.state().reads.concat();
        read.into_iter().find(|digest| session(*digest, "", None).id() == id)
    }

    fn rows(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let (now, state) = (self.now(), self.state());
        if state.down {
            return Err(failed());
        }
        let row = |digest: &TokenDigest| match state.users.get(digest) {
            _ if state.ended.contains(digest) => Row::Revoked,
            None if state.empty || state.absent.contains(digest) => Row::Absent,
            user => Row::Alive {
                session: session(*digest, user.map_or("alice", String::as_str), state.idle),
                user_epoch: 0,
                previous_until: None,
            },
        };
        let rows = digests.iter().map(row).collect();
        Ok(ReadResult { now, store_id: STORE_ID, xmin: 0, rows })
    }

    /// Reads the rows at once. The reply may be delayed.
    async fn read(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let rows = self.rows(digests);
        let _counted = Counted::new(self, digests);
        self.0.calls.begin("load").await;
        self.wait().await;
        self.0.passes.acquire().await.unwrap().forget();
        rows
    }

    /// Returns the reply of the read in flight of this token, or of a new one.
    fn joined(&self, digest: TokenDigest) -> Option<InFlight> {
        let mut state = self.state();
        let joined = state.joined.as_mut()?;
        let store = self.clone();
        let read = async move {
            let loaded = store.read(&[digest]).await.map_err(Arc::new);
            if let Some(joined) = &mut store.state().joined {
                joined.remove(&digest);
            }
            loaded
        };
        Some(joined.entry(digest).or_insert_with(|| read.boxed().shared()).clone())
    }
}

/// A guard that counts a read in flight until it is dropped.
struct Counted<'a>(&'a Store);

impl<'a> Counted<'a> {
    fn new(store: &'a Store, digests: &[TokenDigest]) -> Self {
        let mut state = store.state();
        state.reads.push(digests.to_vec());
        state.in_flight += 1;
        state.most = state.most.max(state.in_flight);
        Self(store)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

fn failed() -> StoreError {
    StoreError::new(StoreErrorKind::Unreachable, "the test makes this call fail")
}

/// Counts down, and returns whether there was something to count.
fn count_down(left: &mut usize) -> bool {
    let before = *left;
    *left = before.saturating_sub(1);
    before > 0
}

impl SessionStore for Store {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let joined = match *digests {
            // A read without digests only identifies the store.
            [] => {
                self.0.calls.begin("learn").await;
                return self.rows(digests);
            }
            [digest] => self.joined(digest),
            _ => None,
        };
        match joined {
            Some(read) => {
                read.await.map_err(|error| StoreError::new(error.kind(), error.to_string()))
            }
            None => self.read(digests).await,
        }
    }

    /// Returns the number of the read, counted at its beginning.
    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        let number = self.count("login_snapshot") + 1;
        self.begin("login_snapshot").await;
        LoginSnapshot::new(number.to_string()).map_err(|_| failed())
    }
    async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        self.begin("create").await;
        self.0.calls.record("created");
        Ok(Creation::Created(session(digest, &new.user_id, None)))
    }
    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.begin("digests").await;
        Ok(match target {
            Target::Token(digest) if !self.state().absent.contains(digest) => vec![*digest],
            Target::Id(id) | Target::OwnedBy(id, _) => self.with_id(*id).into_iter().collect(),
            _ => Vec::new(),
        })
    }
    /// Revokes the session of a token. The store knows no sessions of users but the crowd's.
    async fn revoke(&self, target: &Target, note: &RevocationNote) -> Result<Revoked, StoreError> {
        self.begin("revoke").await;
        let mut state = self.state();
        state.revocations.push((target.clone(), note.reason.clone()));
        if count_down(&mut state.outages) {
            return Err(failed());
        }
        if count_down(&mut state.lost_replies) {
            return Err(StoreError::new(StoreErrorKind::Uncertain, "the reply was lost"));
        }
        let mut revoked = Revoked::nothing();
        match target {
            Target::User { user_id, .. } if user_id == CROWD => {
                (revoked.ended, revoked.found, revoked.complete) = (9, 9, false);
            }
            Target::Token(digest) if !state.absent.contains(digest) => {
                (revoked.ended, revoked.found) = (u64::from(state.ended.insert(*digest)), 1);
                revoked.digests.push(*digest);
            }
            _ => {}
        }
        Ok(revoked)
    }
    /// Updates a session that was read before. Reads still return the first version.
    async fn update(&self, id: SessionId, v: i64, _: &RawValue) -> Result<Change, StoreError> {
        self.begin("update").await;
        let Some(digest) = self.with_id(id) else {
            return Ok(Change::NoSession);
        };
        let mut parts = session(digest, "alice", None).parts();
        parts.version = v + 1;
        Ok(Change::Made { session: parts.into(), digests: vec![digest] })
    }
    async fn rotate(
        &self,
        _: TokenDigest,
        _: TokenDigest,
        _: Duration,
    ) -> Result<Change, StoreError> {
        self.begin("rotate").await;
        Ok(Change::NoSession)
    }
    /// Finds the row locked.
    async fn touch(&self, _: SessionId, _: Duration) -> Result<Change, StoreError> {
        self.0.calls.begin("touch").await;
        self.0.touch_passes.acquire().await.unwrap().forget();
        Ok(Change::Conflict)
    }
    async fn list(
        &self,
        _: &str,
        _: Option<ListCursor>,
        _: usize,
    ) -> Result<SessionPage, StoreError> {
        self.begin("list").await;
        Ok(SessionPage::default())
    }
    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.state().positions.push(position.cloned());
        self.0.calls.begin("journal").await;
        let elsewhere = self.state().journal_elsewhere;
        Ok(JournalRead {
            store_id: if elsewhere { [8; 16] } else { STORE_ID },
            rows: Vec::new(),
            next: JournalPosition::default(),
            floor: 0,
            now: self.now(),
        })
    }
    async fn register_node(&self, node: &NodeRegistration) -> Result<Option<StoreId>, StoreError> {
        self.0.calls.begin("register").await;
        let mut state = self.state();
        if state.refuses_nodes {
            return Err(failed());
        }
        state.nodes.retain(|known| known.id != node.id);
        state.nodes.push(node.clone());
        Ok(None)
    }
    async fn forget_node(&self, id: RegistrationId) -> Result<(), StoreError> {
        self.0.calls.begin("forget").await;
        self.state().nodes.retain(|node| node.id != id);
        Ok(())
    }
    async fn is_one_cache(&self, _: &CacheId) -> Result<bool, StoreError> {
        Ok(!self.state().other_cache)
    }
    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.0.calls.begin("purge").await;
        self.clean("purge", keep)
    }
    async fn sweep(&self, retention: Duration, _: u32) -> Result<u64, StoreError> {
        self.0.calls.begin("sweep").await;
        self.clean("sweep", retention)
    }
    fn is_exclusive(&self) -> bool {
        !self.state().shared
    }
    fn backend(&self) -> &'static str {
        "postgres"
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.0.calls.begin("probe").await;
        if self.state().down { Err(failed()) } else { Ok(()) }
    }
    async fn close_idle(&self) {
        self.0.calls.record("close_idle");
    }
    async fn close(&self) {
        self.0.calls.record("close");
    }
}
