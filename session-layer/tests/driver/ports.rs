//! A store whose reads can be held between the row and the answer, and a cache that can be slow or
//! broken.

mod cache;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, Loaded, Revoked, Row, SessionStore, Target,
};
use session_layer::{
    CheckedSession, ListedSession, LoginMoment, Session, SessionId, SessionParts, Sessions,
    StoreError, StoreErrorKind, Timestamp, TokenDigest, Validation,
};
use tokio::sync::Semaphore;

pub(crate) use self::cache::Cache;

/// Nothing here waits for it in earnest.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

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
    panic!("never came: {what}");
}

/// Clones are one.
#[derive(Clone)]
pub(crate) struct Store(Arc<Rows>);

struct Rows {
    ended: Mutex<HashSet<TokenDigest>>,
    absent: Mutex<HashSet<TokenDigest>>,
    /// A read takes one of these on its way back; a store that is not held has plenty.
    passes: Semaphore,
    takes: Mutex<Duration>,
    panics: AtomicUsize,
    shared: AtomicBool,
    ahead: Mutex<Duration>,
    journal_reads: AtomicUsize,
    /// The idle timeout of all sessions, whose use was not noted for half of it.
    idle: Mutex<Option<Duration>>,
    persistent: AtomicBool,
    cleaned: Mutex<Vec<(&'static str, Duration)>>,
    touches: AtomicUsize,
    /// As for reads.
    touch_passes: Semaphore,
    reads: Mutex<Vec<Vec<TokenDigest>>>,
    in_flight: AtomicUsize,
    most: AtomicUsize,
}

impl Store {
    /// Every token is alive, and reads answer at once.
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
            persistent: AtomicBool::new(false),
            cleaned: Mutex::default(),
            touches: AtomicUsize::new(0),
            touch_passes: Semaphore::new(0),
            reads: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }))
    }

    /// Reads wait until they are let pass.
    pub(crate) fn held() -> Self {
        let store = Self::new();
        store.0.passes.forget_permits(Semaphore::MAX_PERMITS);
        store
    }

    pub(crate) fn let_pass(&self, reads: usize) {
        self.0.passes.add_permits(reads);
    }

    pub(crate) fn takes(&self, span: Duration) {
        *self.0.takes.lock().unwrap() = span;
    }

    /// The next reads panic.
    pub(crate) fn panics(&self, reads: usize) {
        self.0.panics.store(reads, Ordering::SeqCst);
    }

    /// Others change it, too: it has a journal, whose first read panics.
    pub(crate) fn shared(&self) {
        self.0.shared.store(true, Ordering::SeqCst);
    }

    /// Its clock is stepped so far forward.
    pub(crate) fn steps(&self, ahead: Duration) {
        *self.0.ahead.lock().unwrap() = ahead;
    }

    fn now(&self) -> Timestamp {
        Timestamp::now().after(*self.0.ahead.lock().unwrap())
    }

    /// Every session has this idle timeout and is due for a touch; touches wait until they are let pass, and find
    /// the row locked.
    pub(crate) fn due(&self, idle: Duration) {
        *self.0.idle.lock().unwrap() = Some(idle);
    }

    /// And a cookie that outlives the browser.
    pub(crate) fn persistent(&self) {
        self.0.persistent.store(true, Ordering::SeqCst);
    }

    /// What was asked of its housekeeping, and what was to be kept. The first of each fails.
    pub(crate) fn cleaned(&self) -> Vec<(&'static str, Duration)> {
        self.0.cleaned.lock().unwrap().clone()
    }

    fn clean(&self, what: &'static str, keep: Duration) -> Result<u64, StoreError> {
        let mut cleaned = self.0.cleaned.lock().unwrap();
        let first = cleaned.iter().all(|(which, _)| *which != what);
        cleaned.push((what, keep));
        if first { Err(not_here()) } else { Ok(0) }
    }

    /// How many touches began.
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

    /// Nobody has a session with token `n`.
    pub(crate) fn absent(&self, n: usize) {
        let digest = TokenDigest::of(&token(n));
        self.0.absent.lock().unwrap().insert(digest);
    }

    /// How many tokens each read was about, in the order in which they began.
    pub(crate) fn reads(&self) -> Vec<usize> {
        let reads = self.0.reads.lock().unwrap();
        reads.iter().map(Vec::len).collect()
    }

    /// The most reads that were in flight at once, as the store saw it.
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    /// How many are there now.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }

    fn rows(&self, digests: &[TokenDigest]) -> Loaded {
        let ended = self.0.ended.lock().unwrap();
        let absent = self.0.absent.lock().unwrap();
        let row = |digest: &TokenDigest| {
            if ended.contains(digest) {
                Row::Revoked
            } else if absent.contains(digest) {
                Row::Absent
            } else {
                Row::Alive {
                    session: session(
                        digest,
                        *self.0.idle.lock().unwrap(),
                        self.0.persistent.load(Ordering::SeqCst),
                    ),
                    previous_until: None,
                }
            }
        };
        Loaded {
            now: self.now(),
            store_id: [7; 16],
            xmin: 0,
            rows: digests.iter().map(row).collect(),
        }
    }
}

fn session(digest: &TokenDigest, idle_timeout: Option<Duration>, persistent: bool) -> Session {
    let now = Timestamp::now();
    let unnoted = idle_timeout.unwrap_or_default() / 2;
    let [id, ..] = *digest.as_bytes();
    SessionParts {
        id: SessionId::from_bytes([id; 16]),
        user_id: "alice".to_owned(),
        version: 1,
        created_at: now,
        authenticated_at: now,
        last_seen_at: Timestamp::from_micros(
            now.as_micros() - i64::try_from(unnoted.as_micros()).unwrap(),
        ),
        expires_at: now.after(HOUR),
        idle_timeout,
        persistent,
        data: RawValue::from_string("{}".to_owned()).unwrap(),
    }
    .into()
}

/// Counts a read for as long as it is in flight, also when it is dropped.
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
    /// The rows are read as the read begins; its answer may be long on its way.
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let rows = self.rows(digests);
        // Without digests it is the driver's question which store this is.
        if digests.is_empty() {
            return Ok(rows);
        }
        let _in_flight = InFlight::new(&self.0);
        self.0.reads.lock().unwrap().push(digests.to_vec());
        let panics = &self.0.panics;
        if panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            panic!("a read that panics, as the test wants it to");
        }
        let takes = *self.0.takes.lock().unwrap();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.0.passes.acquire().await.unwrap().forget();
        Ok(rows)
    }

    async fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        Err(not_here())
    }
    async fn create(&self, _: TokenDigest, _: &CheckedSession) -> Result<Creation, StoreError> {
        Err(not_here())
    }
    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        Ok(match target {
            Target::Token(digest) => vec![*digest],
            _ => Vec::new(),
        })
    }
    /// Of the one with this token; users' it does not know.
    async fn revoke(&self, target: &Target, _: &str) -> Result<Revoked, StoreError> {
        let mut revoked = Revoked::nothing();
        if let Target::Token(digest) = target
            && !self.0.absent.lock().unwrap().contains(digest)
        {
            revoked.ended = u64::from(self.0.ended.lock().unwrap().insert(*digest));
            revoked.found = 1;
            revoked.digests.push(*digest);
        }
        Ok(revoked)
    }
    /// Of one that was read. Reads go on returning the first version.
    async fn update(&self, id: SessionId, v: i64, _: &RawValue) -> Result<Change, StoreError> {
        let read = self.0.reads.lock().unwrap().concat();
        let session_of = |digest| session(digest, None, false);
        let Some(digest) = read.iter().find(|digest| session_of(digest).id() == id) else {
            return Ok(Change::NoSession);
        };
        let mut parts = session_of(digest).parts().clone();
        parts.version = v + 1;
        Ok(Change::Made {
            session: parts.into(),
            digests: vec![*digest],
        })
    }
    async fn rotate(
        &self,
        _: TokenDigest,
        _: TokenDigest,
        _: Duration,
    ) -> Result<Change, StoreError> {
        Ok(Change::NoSession)
    }
    async fn touch(&self, _: SessionId, _: Duration) -> Result<Change, StoreError> {
        self.0.touches.fetch_add(1, Ordering::SeqCst);
        self.0.touch_passes.acquire().await.unwrap().forget();
        Ok(Change::Conflict)
    }
    async fn list(&self, _: &str) -> Result<Vec<ListedSession>, StoreError> {
        Ok(Vec::new())
    }
    async fn journal_since(&self, _: Option<JournalPosition>) -> Result<JournalRead, StoreError> {
        if self.0.journal_reads.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("a read of the journal that panics, as the test wants it to");
        }
        Ok(JournalRead {
            rows: Vec::new(),
            next: JournalPosition::default(),
            floor: 0,
            now: self.now(),
        })
    }
    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.clean("purge", keep)
    }
    async fn sweep(&self, retention: Duration, _: u32) -> Result<u64, StoreError> {
        self.clean("sweep", retention)
    }
    /// Its journal is of no interest, but to one test.
    fn is_exclusive(&self) -> bool {
        !self.0.shared.load(Ordering::SeqCst)
    }
    fn backend(&self) -> &'static str {
        "stub"
    }
    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn close(&self) {}
}

fn not_here() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "not part of this stub")
}
