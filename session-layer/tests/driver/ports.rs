//! A store whose reads can be held before the reply, and a cache that can be slow or broken.

mod cache;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::CacheId;
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, NodeRegistration, ReadResult, RegistrationId,
    Revoked, Row, SessionStore, StoreId, Target,
};
use session_layer::store::{SessionParts, ValidatedSession};
use session_layer::{
    ListCursor, LoginSnapshot, Session, SessionId, SessionPage, Sessions, Timestamp, TokenDigest,
    Validation,
};
use tokio::sync::Semaphore;

pub(crate) use self::cache::Cache;

/// A timeout that no test exhausts.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A user with more sessions than the store returns the digests of.
pub(crate) const CROWD: &str = "crowd";

/// A token of ours.
pub(crate) fn token(n: usize) -> String {
    format!("{:A<43}", n.to_string())
}

pub(crate) async fn ask(sessions: &Sessions, n: usize) -> &'static str {
    match sessions.validate(&token(n)).await {
        Validation::Valid(_) => "valid",
        Validation::Invalid => "invalid",
        _ => "unavailable",
    }
}

/// Lets every other task run until the condition holds. No time passes.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("timed out waiting for {what}");
}

/// A store in memory. Clones share its state.
#[derive(Clone)]
pub(crate) struct Store(Arc<Rows>);

struct Rows {
    ended: Mutex<HashSet<TokenDigest>>,
    absent: Mutex<HashSet<TokenDigest>>,
    /// A read acquires one of these before it returns. A store that is not held has plenty.
    passes: Semaphore,
    takes: Mutex<Duration>,
    panics: AtomicUsize,
    shared: AtomicBool,
    ahead: Mutex<Duration>,
    journal_reads: AtomicUsize,
    /// The idle timeout of all sessions. Their last recorded use is half of it ago.
    idle: Mutex<Option<Duration>>,
    cleaned: Mutex<Vec<(&'static str, Duration)>>,
    touches: AtomicUsize,
    /// The same for touches.
    touch_passes: Semaphore,
    /// Whether registrations fail.
    refuses_nodes: AtomicBool,
    /// Whether another node serves entries from another cache.
    other_cache: AtomicBool,
    /// Whether reads and the journal come from two servers.
    journal_elsewhere: AtomicBool,
    nodes: Mutex<Vec<NodeRegistration>>,
    /// The changes, logins and lists.
    calls: Mutex<Vec<&'static str>>,
    /// The same for changes, logins and lists.
    call_passes: Semaphore,
    reads: Mutex<Vec<Vec<TokenDigest>>>,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    revocations: Mutex<Vec<(Target, String)>>,
    /// How many of the next revocations fail.
    outages: AtomicUsize,
    lost_replies: AtomicUsize,
}

impl Store {
    /// Creates a store in which every token is active. Reads return at once.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Rows {
            ended: Mutex::default(),
            absent: Mutex::default(),
            passes: Semaphore::new(Semaphore::MAX_PERMITS),
            takes: Mutex::default(),
            panics: AtomicUsize::new(0),
            shared: AtomicBool::new(false),
            ahead: Mutex::default(),
            journal_reads: AtomicUsize::new(0),
            idle: Mutex::default(),
            cleaned: Mutex::default(),
            touches: AtomicUsize::new(0),
            touch_passes: Semaphore::new(0),
            refuses_nodes: AtomicBool::new(false),
            other_cache: AtomicBool::new(false),
            journal_elsewhere: AtomicBool::new(false),
            nodes: Mutex::default(),
            calls: Mutex::default(),
            call_passes: Semaphore::new(Semaphore::MAX_PERMITS),
            reads: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            revocations: Mutex::default(),
            outages: AtomicUsize::new(0),
            lost_replies: AtomicUsize::new(0),
        }))
    }

    /// Creates a store whose reads wait until they are released.
    pub(crate) fn held() -> Self {
        let store = Self::new();
        store.0.passes.forget_permits(Semaphore::MAX_PERMITS);
        store
    }

    pub(crate) fn let_pass(&self, reads: usize) {
        self.0.passes.add_permits(reads);
    }

    /// Holds changes, logins and lists until they are released.
    pub(crate) fn holds_calls(&self) {
        self.0.call_passes.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_calls_pass(&self, calls: usize) {
        self.0.call_passes.add_permits(calls);
    }

    /// Returns the calls of changes, logins and lists so far, and of `close`.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.0.calls.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|each| **each == call).count()
    }

    async fn called(&self, call: &'static str) {
        self.0.calls.lock().unwrap().push(call);
        let takes = *self.0.takes.lock().unwrap();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.0.call_passes.acquire().await.unwrap().forget();
    }

    pub(crate) fn takes(&self, span: Duration) {
        *self.0.takes.lock().unwrap() = span;
    }

    /// Returns what was to be revoked, and why.
    pub(crate) fn revocations(&self) -> Vec<(Target, String)> {
        self.0.revocations.lock().unwrap().clone()
    }

    /// The next revocations fail, and change nothing.
    pub(crate) fn outages(&self, revocations: usize) {
        self.0.outages.store(revocations, Ordering::SeqCst);
    }

    /// The replies to the next revocations are lost.
    pub(crate) fn lost_replies(&self, revocations: usize) {
        self.0.lost_replies.store(revocations, Ordering::SeqCst);
    }

    /// Returns how often the journal was read.
    pub(crate) fn journal_reads(&self) -> usize {
        self.0.journal_reads.load(Ordering::SeqCst)
    }

    /// The next reads panic.
    pub(crate) fn panics(&self, reads: usize) {
        self.0.panics.store(reads, Ordering::SeqCst);
    }

    /// Makes the store shared by other nodes. It then has a journal, whose first read panics.
    pub(crate) fn shared(&self) {
        self.0.shared.store(true, Ordering::SeqCst);
    }

    pub(crate) fn refuses_nodes(&self, refuses: bool) {
        self.0.refuses_nodes.store(refuses, Ordering::SeqCst);
    }

    pub(crate) fn other_cache(&self, there_is: bool) {
        self.0.other_cache.store(there_is, Ordering::SeqCst);
    }

    pub(crate) fn journal_elsewhere(&self, elsewhere: bool) {
        self.0.journal_elsewhere.store(elsewhere, Ordering::SeqCst);
    }

    pub(crate) fn nodes(&self) -> Vec<NodeRegistration> {
        self.0.nodes.lock().unwrap().clone()
    }

    /// Steps the clock forward by this much.
    pub(crate) fn steps(&self, ahead: Duration) {
        *self.0.ahead.lock().unwrap() = ahead;
    }

    fn now(&self) -> Timestamp {
        Timestamp::now().after(*self.0.ahead.lock().unwrap())
    }

    /// Gives every session this idle timeout and makes it due for a touch. Touches wait until they
    /// are released, and find the row locked.
    pub(crate) fn due(&self, idle: Duration) {
        *self.0.idle.lock().unwrap() = Some(idle);
    }

    /// Returns the housekeeping calls with their retention. The first call of each kind fails.
    pub(crate) fn cleaned(&self) -> Vec<(&'static str, Duration)> {
        self.0.cleaned.lock().unwrap().clone()
    }

    fn clean(&self, what: &'static str, keep: Duration) -> Result<u64, StoreError> {
        let mut cleaned = self.0.cleaned.lock().unwrap();
        let first = cleaned.iter().all(|(which, _)| *which != what);
        cleaned.push((what, keep));
        if first { Err(not_here()) } else { Ok(0) }
    }

    pub(crate) fn touches(&self) -> usize {
        self.0.touches.load(Ordering::SeqCst)
    }

    pub(crate) fn let_touches_pass(&self, touches: usize) {
        self.0.touch_passes.add_permits(touches);
    }

    pub(crate) fn end(&self, n: usize) {
        let digest = TokenDigest::of(&token(n));
        self.0.ended.lock().unwrap().insert(digest);
    }

    /// Removes the session of token `n`.
    pub(crate) fn absent(&self, n: usize) {
        let digest = TokenDigest::of(&token(n));
        self.0.absent.lock().unwrap().insert(digest);
    }

    /// Returns the number of tokens in each read, in the order in which the reads began.
    pub(crate) fn reads(&self) -> Vec<usize> {
        let reads = self.0.reads.lock().unwrap();
        reads.iter().map(Vec::len).collect()
    }

    /// Returns the maximum number of concurrent reads, as the store counted them.
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }

    fn with_id(&self, id: SessionId) -> Option<TokenDigest> {
        let read = self.0.reads.lock().unwrap().concat();
        read.into_iter().find(|digest| session(digest, None).id() == id)
    }

    fn rows(&self, digests: &[TokenDigest]) -> ReadResult {
        let ended = self.0.ended.lock().unwrap();
        let absent = self.0.absent.lock().unwrap();
        let row = |digest: &TokenDigest| {
            if ended.contains(digest) {
                Row::Revoked
            } else if absent.contains(digest) {
                Row::Absent
            } else {
                Row::Alive {
                    session: session(digest, *self.0.idle.lock().unwrap()),
                    user_epoch: 0,
                    previous_until: None,
                }
            }
        };
        ReadResult {
            now: self.now(),
            store_id: [7; 16],
            xmin: 0,
            rows: digests.iter().map(row).collect(),
        }
    }
}

fn session(digest: &TokenDigest, idle_timeout: Option<Duration>) -> Session {
    let now = Timestamp::now();
    let unrecorded = idle_timeout.unwrap_or_default() / 2;
    let [id, ..] = *digest.as_bytes();
    SessionParts {
        id: SessionId::from_bytes([id; 16]),
        user_id: "alice".to_owned(),
        version: 1,
        created_at: now,
        authenticated_at: now,
        last_seen_at: Timestamp::from_micros(
            now.as_micros() - i64::try_from(unrecorded.as_micros()).unwrap(),
        ),
        expires_at: now.after(HOUR),
        idle_timeout,
        persistent: false,
        data: RawValue::from_string("{}".to_owned()).unwrap(),
    }
    .into()
}

/// A guard that counts a read in flight until it is dropped.
struct InFlight<'a>(&'a Rows);

impl<'a> InFlight<'a> {
    fn new(rows: &'a Rows) -> Self {
        let now = rows.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        rows.most.fetch_max(now, Ordering::SeqCst);
        Self(rows)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SessionStore for Store {
    /// Reads the rows at once. The reply may be delayed.
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let rows = self.rows(digests);
        // A read without digests only identifies the store.
        if digests.is_empty() {
            return Ok(rows);
        }
        let _in_flight = InFlight::new(&self.0);
        self.0.reads.lock().unwrap().push(digests.to_vec());
        let panics = &self.0.panics;
        if panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            panic!("the test makes this read panic");
        }
        let takes = *self.0.takes.lock().unwrap();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.0.passes.acquire().await.unwrap().forget();
        Ok(rows)
    }

    /// Returns the number of the read, counted at its beginning.
    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        let number = self.count("login_snapshot") + 1;
        self.called("login_snapshot").await;
        LoginSnapshot::new(number.to_string()).map_err(|_| not_here())
    }
    async fn create(
        &self,
        digest: TokenDigest,
        _: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        self.called("create").await;
        self.0.calls.lock().unwrap().push("created");
        Ok(Creation::Created(session(&digest, None)))
    }
    /// Returns the digest of this token, or of a session that was read before.
    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.called("digests").await;
        Ok(match target {
            Target::Token(digest) if !self.0.absent.lock().unwrap().contains(digest) => {
                vec![*digest]
            }
            Target::Id(id) | Target::OwnedBy(id, _) => self.with_id(*id).into_iter().collect(),
            _ => Vec::new(),
        })
    }
    /// Of the one with this token; users' it does not know.
    async fn revoke(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        self.called("revoke").await;
        self.0.revocations.lock().unwrap().push((target.clone(), reason.to_owned()));
        if self
            .0
            .outages
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok()
        {
            return Err(not_here());
        }
        let count_down = |n: usize| n.checked_sub(1);
        let lost = &self.0.lost_replies;
        if lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count_down).is_ok() {
            return Err(StoreError::new(StoreErrorKind::Uncertain, "the reply was lost"));
        }
        let mut revoked = Revoked::nothing();
        if matches!(target, Target::User { user_id, .. } if user_id == CROWD) {
            (revoked.ended, revoked.found, revoked.complete) = (9, 9, false);
        }
        if let Target::Token(digest) = target
            && !self.0.absent.lock().unwrap().contains(digest)
        {
            revoked.ended = u64::from(self.0.ended.lock().unwrap().insert(*digest));
            revoked.found = 1;
            revoked.digests.push(*digest);
        }
        Ok(revoked)
    }
    /// Updates a session that was read before. Reads still return the first version.
    async fn update(&self, id: SessionId, v: i64, _: &RawValue) -> Result<Change, StoreError> {
        self.called("update").await;
        let Some(digest) = self.with_id(id) else {
            return Ok(Change::NoSession);
        };
        let mut parts = session(&digest, None).parts().clone();
        parts.version = v + 1;
        Ok(Change::Made { session: parts.into(), digests: vec![digest] })
    }
    async fn rotate(
        &self,
        _: TokenDigest,
        _: TokenDigest,
        _: Duration,
    ) -> Result<Change, StoreError> {
        self.called("rotate").await;
        Ok(Change::NoSession)
    }
    async fn touch(&self, _: SessionId, _: Duration) -> Result<Change, StoreError> {
        self.0.touches.fetch_add(1, Ordering::SeqCst);
        self.0.touch_passes.acquire().await.unwrap().forget();
        Ok(Change::Conflict)
    }
    async fn list(
        &self,
        _: &str,
        _: Option<ListCursor>,
        _: usize,
    ) -> Result<SessionPage, StoreError> {
        self.called("list").await;
        Ok(SessionPage::default())
    }
    async fn journal_since(&self, _: Option<&JournalPosition>) -> Result<JournalRead, StoreError> {
        if self.0.journal_reads.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("the test makes this read of the journal panic");
        }
        let elsewhere = self.0.journal_elsewhere.load(Ordering::SeqCst);
        Ok(JournalRead {
            store_id: if elsewhere { [8; 16] } else { [7; 16] },
            rows: Vec::new(),
            next: JournalPosition::default(),
            floor: 0,
            now: self.now(),
        })
    }
    async fn register_node(&self, node: &NodeRegistration) -> Result<Option<StoreId>, StoreError> {
        if self.0.refuses_nodes.load(Ordering::SeqCst) {
            return Err(not_here());
        }
        let mut nodes = self.0.nodes.lock().unwrap();
        nodes.retain(|known| known.id != node.id);
        nodes.push(node.clone());
        Ok(None)
    }
    async fn forget_node(&self, id: RegistrationId) -> Result<(), StoreError> {
        self.0.nodes.lock().unwrap().retain(|node| node.id != id);
        Ok(())
    }
    async fn is_one_cache(&self, _: &CacheId) -> Result<bool, StoreError> {
        Ok(!self.0.other_cache.load(Ordering::SeqCst))
    }
    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.clean("purge", keep)
    }
    async fn sweep(&self, retention: Duration, _: u32) -> Result<u64, StoreError> {
        self.clean("sweep", retention)
    }
    /// Returns whether the store is not shared. Most tests do not use the journal.
    fn is_exclusive(&self) -> bool {
        !self.0.shared.load(Ordering::SeqCst)
    }
    fn backend(&self) -> &'static str {
        "stub"
    }
    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn close(&self) {
        self.0.calls.lock().unwrap().push("close");
    }
}

fn not_here() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "not part of this stub")
}
