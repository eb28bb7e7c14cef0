//! The ports of [`crate::ports`], with one call that always hangs or panics.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::{
    CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated, Lookup, SessionCache,
};
use session_layer::error::{CacheError, StoreError};
use session_layer::store::ValidatedSession;
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, ReadResult, Revoked, SessionStore, Target,
};
use session_layer::{ListCursor, LoginSnapshot, SessionId, SessionPage, TokenDigest};

use crate::ports::{Cache, Store};

/// The way in which a call breaks its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Hangs,
    Panics,
}

/// The broken call, if there is one, and the calls so far. Clones share the state.
#[derive(Clone, Default)]
pub(super) struct Broken(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    broken: Option<(&'static str, How)>,
    calls: Vec<&'static str>,
    /// The positions at which the reads of the journal began.
    positions: Vec<Option<JournalPosition>>,
}

impl Broken {
    pub(super) fn now(&self, call: &'static str, how: How) {
        self.0.lock().unwrap().broken = Some((call, how));
    }

    pub(super) fn repaired(&self) {
        self.0.lock().unwrap().broken = None;
    }

    pub(super) fn calls(&self, call: &'static str) -> usize {
        let state = self.0.lock().unwrap();
        state.calls.iter().filter(|made| **made == call).count()
    }

    pub(super) fn positions(&self) -> Vec<Option<JournalPosition>> {
        self.0.lock().unwrap().positions.clone()
    }

    async fn pass(&self, call: &'static str) {
        let broken = {
            let mut state = self.0.lock().unwrap();
            state.calls.push(call);
            state.broken.filter(|(broken, _)| *broken == call)
        };
        match broken {
            Some((_, How::Hangs)) => std::future::pending().await,
            Some((_, How::Panics)) => panic!("the test makes {call} panic"),
            None => {}
        }
    }
}

pub(super) struct BrokenStore(pub(super) Store, pub(super) Broken);

impl SessionStore for BrokenStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let call = if digests.is_empty() { "learn" } else { "load" };
        self.1.pass(call).await;
        self.0.load(digests).await
    }
    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.1.pass("login_snapshot").await;
        self.0.login_snapshot().await
    }
    async fn create(&self, _: TokenDigest, _: &ValidatedSession) -> Result<Creation, StoreError> {
        self.1.pass("create").await;
        Ok(Creation::AlreadyExists)
    }
    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.1.pass("digests").await;
        let found = self.0.digests(target).await?;
        // Without a digest, there would be nothing to fence and to remove.
        let some = found.is_empty().then(|| TokenDigest::of("any"));
        Ok(found.into_iter().chain(some).collect())
    }
    async fn revoke(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        self.1.pass("revoke").await;
        self.0.revoke(target, reason).await
    }
    async fn update(&self, id: SessionId, v: i64, data: &RawValue) -> Result<Change, StoreError> {
        self.1.pass("update").await;
        self.0.update(id, v, data).await
    }
    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        self.1.pass("rotate").await;
        self.0.rotate(old, new, grace).await
    }
    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        self.1.pass("touch").await;
        self.0.touch(id, granularity).await
    }
    async fn list(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        self.1.pass("list").await;
        self.0.list(user_id, after, limit).await
    }
    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.1.0.lock().unwrap().positions.push(position.cloned());
        self.1.pass("journal").await;
        Ok(JournalRead {
            store_id: [7; 16],
            rows: Vec::new(),
            next: JournalPosition::default(),
            floor: 0,
            now: session_layer::Timestamp::now(),
        })
    }
    async fn purge_journal(&self, _: Duration) -> Result<u64, StoreError> {
        self.1.pass("purge").await;
        Ok(0)
    }
    async fn sweep(&self, _: Duration, _: u32) -> Result<u64, StoreError> {
        self.1.pass("sweep").await;
        Ok(0)
    }
    fn backend(&self) -> &'static str {
        self.0.backend()
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.1.pass("probe").await;
        self.0.probe().await
    }
    async fn close(&self) {}
}

pub(super) struct BrokenCache(pub(super) Cache, pub(super) Broken);

impl SessionCache for BrokenCache {
    type Lease = ();

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<()>> {
        self.1.pass("get").await;
        self.0.get(digests, judge).await
    }
    async fn fill(&self, lease: (), entry: &Entry, life: Duration) -> Result<Filled, CacheError> {
        self.1.pass("fill").await;
        self.0.fill(lease, entry, life).await
    }
    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        self.1.pass("fence").await;
        self.0.fence(digests).await
    }
    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        self.1.pass("invalidate").await;
        self.0.invalidate(digests).await
    }
    fn status(&self) -> CacheStatus {
        self.0.status()
    }
    async fn probe(&self) -> CacheProbe {
        self.1.pass("probe").await;
        self.0.probe().await
    }
    async fn close(&self) {}
}
