//! Broken variants of the protocol, built around any cache and any store: what is broken by them must be
//! caught. `simulation/src/lib.rs` has the table of which check catches which.
//!
//! The mistakes that only an adapter can make are switched on in the simulated ones (`simulation/src/cache.rs`, `store.rs`);
//! on a real Redis the same are forced in `it/adapter_mutants.rs`.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use serde_json::value::RawValue;
use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, Filled, Invalidated, Lookup, SessionCache,
};
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, Loaded, Revoked, Row, SessionStore, Target,
};
use session_layer::{
    CacheError, CheckedSession, ListedSession, LoginMoment, SessionId, StoreError, StoreErrorKind,
    TokenDigest,
};

/// A broken variant of the protocol.
#[allow(
    dead_code,
    reason = "each of the test binaries that share them has its own part"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    // Of an adapter:
    /// A fill is a plain SET.
    WithoutALease,
    /// A fill is a SET NX, and what ends a session leaves a tombstone there instead of UNLINK.
    TombstoneAndSetNx,
    /// All leases are the same bytes.
    NonceReused,
    /// A copy does not say of which life of which server it is.
    WithoutIncarnation,
    /// A fill takes the link and the incarnation of now, not those of its lease.
    SealedWithThePresent,
    /// Neither cache, nor store, nor driver has a deadline.
    NoDeadline,
    /// Whether a copy is contradicted is looked at first, and after a while how old the journal is.
    AgeAfterTheSet,
    /// A read of the journal returns what was written since the last one, by the clock.
    JournalByTime,
    /// Rows of the journal are purged, and its floor is not raised.
    PurgeLeavesTheFloor,
    /// Rows are purged also of transactions that came after one still running; the floor stays below that one,
    /// lest no fresh copy be believed.
    PurgesPastTheRunning,
    // Around any:
    /// The copies are removed before the COMMIT, and not after it.
    UnlinkBeforeCommitOnly,
    /// No fence, no UNLINK, ever.
    NeverUnlinks,
    /// Whoever asks the store while a read is under way gets that one's answer.
    JoinsAReadUnderWay,
    /// An update does not UNLINK.
    UpdateSkipsUnlink,
    /// A rotation does not UNLINK.
    RotateSkipsUnlink,
    /// A row that row-level security hides is one that is not there.
    HiddenIsInvalid,
    /// So is one that could not be read.
    ErrorIsInvalid,
    /// So is one that a touch found locked, as often as it looked.
    LockedIsInvalid,
    /// The journal is read, and nothing made of it.
    JournalUnread,
    /// The next read of the journal begins behind the last row of this one.
    JournalFromTheLastRow,
    /// A node that starts takes nothing for its journal, until the second read of it.
    BelievesBeforeTheFirstLoad,
}

/// What the two wrappers of one node have in common.
#[derive(Clone, Default)]
pub(crate) struct Broken(Arc<BrokenState>);

#[derive(Default)]
struct BrokenState {
    mistake: Option<Mistake>,
    /// Whose UNLINK is skipped.
    skipped: Mutex<BTreeSet<TokenDigest>>,
    reads: Mutex<BTreeMap<Vec<TokenDigest>, SharedRead>>,
    /// What the store said last beside its rows.
    said: Mutex<Option<Loaded>>,
}

type SharedRead = Shared<BoxFuture<'static, Result<Loaded, Arc<StoreError>>>>;

impl Broken {
    pub(crate) fn new(mistake: Option<Mistake>) -> Self {
        Self(Arc::new(BrokenState {
            mistake,
            ..BrokenState::default()
        }))
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.0.mistake == Some(mistake)
    }

    fn skip(&self, change: &Result<Change, StoreError>) {
        if let Ok(Change::Made { digests, .. }) = change {
            lock(&self.0.skipped).extend(digests);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a cache is broken: what is not said here, the cache itself does.
pub(crate) trait Breaks<C: SessionCache>: Send + Sync + 'static {
    fn fill(
        &self,
        cache: &C,
        (_, lease): (TokenDigest, C::Lease),
        entry: &Entry,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Filled, CacheError>> + Send {
        cache.fill(lease, entry, lifetime)
    }

    fn fence(
        &self,
        cache: &C,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<(), CacheError>> + Send {
        cache.fence(digests)
    }

    fn invalidate(
        &self,
        cache: &C,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Invalidated, CacheError>> + Send {
        cache.invalidate(digests)
    }
}

/// A cache that is broken so; by default, with the mistakes that can be made around any.
pub(crate) struct BrokenCache<C, B = Broken> {
    pub(crate) cache: C,
    pub(crate) broken: B,
}

impl<C: SessionCache, B: Breaks<C>> SessionCache for BrokenCache<C, B> {
    /// With the digest, for who breaks a fill.
    type Lease = (TokenDigest, C::Lease);

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<Self::Lease>> {
        let found = self.cache.get(digests, judge).await;
        let with_digest = |(digest, lookup): (&TokenDigest, Lookup<C::Lease>)| match lookup {
            Lookup::Hit(entry) => Lookup::Hit(entry),
            Lookup::Leased(lease) => Lookup::Leased((*digest, lease)),
            Lookup::Refused(error) => Lookup::Refused(error),
            Lookup::Failed(error) => Lookup::Failed(error),
            _ => Lookup::DoNotFill,
        };
        digests.iter().zip(found).map(with_digest).collect()
    }

    async fn fill(
        &self,
        lease: Self::Lease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        self.broken.fill(&self.cache, lease, entry, lifetime).await
    }
    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        self.broken.fence(&self.cache, digests).await
    }
    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        self.broken.invalidate(&self.cache, digests).await
    }
    fn status(&self) -> CacheStatus {
        self.cache.status()
    }
    async fn probe(&self) -> CacheProbe {
        self.cache.probe().await
    }
    async fn close(&self) {
        self.cache.close().await;
    }
}

impl<C: SessionCache> Breaks<C> for Broken {
    async fn fence(&self, cache: &C, digests: &[TokenDigest]) -> Result<(), CacheError> {
        if self.is(Mistake::NeverUnlinks) {
            return Ok(());
        }
        if self.is(Mistake::UnlinkBeforeCommitOnly) {
            return cache.invalidate(digests).await.map(drop);
        }
        cache.fence(digests).await
    }

    async fn invalidate(
        &self,
        cache: &C,
        digests: &[TokenDigest],
    ) -> Result<Invalidated, CacheError> {
        let never = [Mistake::UnlinkBeforeCommitOnly, Mistake::NeverUnlinks];
        if never.iter().any(|mistake| self.is(*mistake)) {
            return Ok(Invalidated::Everywhere);
        }
        let left: Vec<_> = {
            let mut skipped = lock(&self.0.skipped);
            let kept = |digest: &&TokenDigest| !skipped.remove(digest);
            digests.iter().filter(kept).copied().collect()
        };
        if left.is_empty() && !digests.is_empty() {
            return Ok(Invalidated::Everywhere);
        }
        cache.invalidate(&left).await
    }
}

/// As if a journal in which nothing is had been read.
fn nothing_yet() -> JournalRead {
    JournalRead {
        rows: Vec::new(),
        next: JournalPosition::default(),
        floor: 0,
        now: session_layer::Timestamp::now(),
    }
}

/// A store, with the mistakes that can be made around any.
pub(crate) struct BrokenStore<S> {
    pub(crate) store: Arc<S>,
    pub(crate) broken: Broken,
}

impl<S: SessionStore> BrokenStore<S> {
    /// Whoever asks while a read is under way gets that one's answer.
    async fn join(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let key = digests.to_vec();
        let read = {
            let mut reads = lock(&self.broken.0.reads);
            if let Some(read) = reads.get(&key) {
                read.clone()
            } else {
                let (store, digests) = (Arc::clone(&self.store), key.clone());
                let read = async move { store.load(&digests).await.map_err(Arc::new) };
                let read = read.boxed().shared();
                reads.insert(key.clone(), read.clone());
                read
            }
        };
        let loaded = read.clone().await;
        lock(&self.broken.0.reads).retain(|_, other| !other.ptr_eq(&read));
        loaded.map_err(|error| StoreError::new(error.kind(), error.to_string()))
    }

    /// As if no row were there.
    fn nothing(&self, digests: &[TokenDigest], error: StoreError) -> Result<Loaded, StoreError> {
        let mut said = lock(&self.broken.0.said).clone().ok_or(error)?;
        said.rows = vec![Row::Absent; digests.len()];
        Ok(said)
    }
}

impl<S: SessionStore> SessionStore for BrokenStore<S> {
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let loaded = if self.broken.is(Mistake::JoinsAReadUnderWay) {
            self.join(digests).await
        } else {
            self.store.load(digests).await
        };
        match loaded {
            Ok(loaded) => {
                *lock(&self.broken.0.said) = Some(loaded.clone());
                Ok(loaded)
            }
            Err(error)
                if self.broken.is(Mistake::HiddenIsInvalid)
                    && error.kind() == StoreErrorKind::NotAuthoritative
                    || self.broken.is(Mistake::ErrorIsInvalid) =>
            {
                self.nothing(digests, error)
            }
            Err(error) => Err(error),
        }
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
    ) -> Result<Creation, StoreError> {
        self.store.create(digest, new).await
    }
    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.store.digests(target).await
    }
    async fn revoke(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        self.store.revoke(target, reason).await
    }

    async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        let change = self.store.update(id, version, data).await;
        if self.broken.is(Mistake::UpdateSkipsUnlink) {
            self.broken.skip(&change);
        }
        change
    }

    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        let change = self.store.rotate(old, new, grace).await;
        if self.broken.is(Mistake::RotateSkipsUnlink) {
            self.broken.skip(&change);
        }
        change
    }

    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        match self.store.touch(id, granularity).await {
            Ok(Change::Conflict) if self.broken.is(Mistake::LockedIsInvalid) => {
                Ok(Change::NoSession)
            }
            touched => touched,
        }
    }
    async fn list(&self, user_id: &str) -> Result<Vec<ListedSession>, StoreError> {
        self.store.list(user_id).await
    }
    async fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        self.store.login_moment().await
    }

    async fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        if position.is_none() && self.broken.is(Mistake::BelievesBeforeTheFirstLoad) {
            return Ok(nothing_yet());
        }
        let mut read = self.store.journal_since(position).await?;
        if self.broken.is(Mistake::JournalUnread) {
            read.rows.clear();
        }
        if self.broken.is(Mistake::JournalFromTheLastRow) {
            let last = read.rows.iter().map(|row| row.xid + 1).max();
            let before = position.map_or(0, |position| position.xid);
            read.next.xid = last.unwrap_or(before).max(before);
        }
        Ok(read)
    }

    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.store.purge_journal(keep).await
    }
    async fn sweep(&self, retention: Duration, most: u32) -> Result<u64, StoreError> {
        self.store.sweep(retention, most).await
    }
    fn is_exclusive(&self) -> bool {
        self.store.is_exclusive()
    }
    fn backend(&self) -> &'static str {
        self.store.backend()
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }
    async fn close(&self) {
        self.store.close().await;
    }
}
