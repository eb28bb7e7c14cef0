//! Broken variants of the protocol, built around any cache and any store: what is broken by them
//! must be caught. `verification/simulation/README.md` has the table of which check catches which.
//!
//! The mistakes that only an adapter can make are switched on in the simulated ones
//! (`verification/simulation/src/cache.rs`, `store.rs`); on a real Redis the same are forced in
//! `changes/adapter_mutants.rs`.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use serde_json::value::RawValue;
use session_layer::cache::{
    CacheId, CacheIdentity, CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated,
    Lookup, SessionCache,
};
use session_layer::error::{CacheError, StoreError, StoreErrorKind};
use session_layer::store::ValidatedSession;
use session_layer::store::{
    Change, Creation, EndedUser, JournalPosition, JournalRead, NodeRegistration, ReadResult,
    RegistrationId, Revoked, Row, SessionStore, StoreId, Target,
};
use session_layer::{ListCursor, LoginSnapshot, SessionId, SessionPage, TokenDigest};

/// A broken variant of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
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
    /// Rows are purged also of transactions that came after one still running; the floor stays
    /// below that one, lest no fresh copy be believed.
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
    /// A node that starts takes nothing for its journal, until the third read of it.
    BelievesBeforeTheFirstLoad,
}

/// What the two wrappers of one node have in common.
#[derive(Clone, Default)]
pub struct Broken(Arc<BrokenState>);

#[derive(Default)]
struct BrokenState {
    mistake: Option<Mistake>,
    /// Whose UNLINK is skipped.
    skipped: Mutex<BTreeSet<TokenDigest>>,
    reads: Mutex<BTreeMap<Vec<TokenDigest>, SharedRead>>,
    /// What the store said last beside its rows.
    said: Mutex<Option<ReadResult>>,
}

type SharedRead = Shared<BoxFuture<'static, Result<ReadResult, Arc<StoreError>>>>;

impl Broken {
    pub fn new(mistake: Option<Mistake>) -> Self {
        Self(Arc::new(BrokenState { mistake, ..BrokenState::default() }))
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
pub trait BreaksCache<C: SessionCache>: Send + Sync + 'static {
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
pub struct BrokenCache<C, B = Broken> {
    pub cache: C,
    pub broken: B,
}

impl<C: SessionCache, B: BreaksCache<C>> SessionCache for BrokenCache<C, B> {
    /// With the digest, for who breaks a fill.
    type Lease = (TokenDigest, C::Lease);

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
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
    fn identity(&self) -> CacheIdentity {
        self.cache.identity()
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

impl<C: SessionCache> BreaksCache<C> for Broken {
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

/// What [`Mistake::BelievesBeforeTheFirstLoad`] leaves as the position after its first read.
const ONCE: &str = "once";

/// As if a journal in which nothing is had been read.
fn nothing_yet(seen: &str) -> JournalRead {
    JournalRead {
        store_id: *b"simulated store!",
        rows: Vec::new(),
        next: JournalPosition { store_id: *b"simulated store!", seen: seen.into(), page: None },
        floor: 0,
        now: session_layer::Timestamp::now(),
    }
}

/// How a store is broken: what is not said here, the store itself does.
pub trait BreaksStore<S: SessionStore>: Send + Sync + 'static {
    fn load(
        &self,
        store: &Arc<S>,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<ReadResult, StoreError>> + Send {
        store.load(digests)
    }

    /// Defaults to that of the port.
    fn max_concurrent_reads(&self) -> usize {
        4
    }

    /// What came of a change of the data.
    fn updated(&self, change: Result<Change, StoreError>) -> Result<Change, StoreError> {
        change
    }

    fn rotated(&self, change: Result<Change, StoreError>) -> Result<Change, StoreError> {
        change
    }

    fn touched(&self, change: Result<Change, StoreError>) -> Result<Change, StoreError> {
        change
    }

    fn journal_since(
        &self,
        store: &S,
        position: Option<&JournalPosition>,
    ) -> impl Future<Output = Result<JournalRead, StoreError>> + Send {
        store.journal_since(position)
    }
}

/// A store that is broken so; by default, with the mistakes that can be made around any.
pub struct BrokenStore<S, B = Broken> {
    pub store: Arc<S>,
    pub broken: B,
}

impl<S: SessionStore, B: BreaksStore<S>> SessionStore for BrokenStore<S, B> {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        self.broken.load(&self.store, digests).await
    }
    fn max_concurrent_reads(&self) -> usize {
        self.broken.max_concurrent_reads()
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
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
        self.broken.updated(self.store.update(id, version, data).await)
    }

    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        self.broken.rotated(self.store.rotate(old, new, grace).await)
    }

    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        self.broken.touched(self.store.touch(id, granularity).await)
    }
    async fn list(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        self.store.list(user_id, after, limit).await
    }
    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.store.login_snapshot().await
    }

    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.broken.journal_since(&self.store, position).await
    }

    async fn end_rows(
        &self,
        user: &EndedUser,
        reason: &str,
        after: Option<ListCursor>,
    ) -> Result<Option<ListCursor>, StoreError> {
        self.store.end_rows(user, reason, after).await
    }
    async fn register_node(&self, node: &NodeRegistration) -> Result<Option<StoreId>, StoreError> {
        self.store.register_node(node).await
    }
    async fn forget_node(&self, id: RegistrationId) -> Result<(), StoreError> {
        self.store.forget_node(id).await
    }
    async fn is_one_cache(&self, cache: &CacheId) -> Result<bool, StoreError> {
        self.store.is_one_cache(cache).await
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

impl Broken {
    /// Whoever asks while a read is under way gets that one's answer.
    async fn join<S: SessionStore>(
        &self,
        store: &Arc<S>,
        digests: &[TokenDigest],
    ) -> Result<ReadResult, StoreError> {
        let key = digests.to_vec();
        let read = {
            let mut reads = lock(&self.0.reads);
            if let Some(read) = reads.get(&key) {
                read.clone()
            } else {
                let (store, digests) = (Arc::clone(store), key.clone());
                let read = async move { store.load(&digests).await.map_err(Arc::new) };
                let read = read.boxed().shared();
                reads.insert(key.clone(), read.clone());
                read
            }
        };
        let loaded = read.clone().await;
        lock(&self.0.reads).retain(|_, other| !other.ptr_eq(&read));
        loaded.map_err(|error| StoreError::new(error.kind(), error.to_string()))
    }

    /// As if no row were there.
    fn nothing(
        &self,
        digests: &[TokenDigest],
        error: StoreError,
    ) -> Result<ReadResult, StoreError> {
        let mut said = lock(&self.0.said).clone().ok_or(error)?;
        said.rows = vec![Row::Absent; digests.len()];
        Ok(said)
    }
}

impl<S: SessionStore> BreaksStore<S> for Broken {
    async fn load(
        &self,
        store: &Arc<S>,
        digests: &[TokenDigest],
    ) -> Result<ReadResult, StoreError> {
        let loaded = if self.is(Mistake::JoinsAReadUnderWay) {
            self.join(store, digests).await
        } else {
            store.load(digests).await
        };
        match loaded {
            Ok(loaded) => {
                *lock(&self.0.said) = Some(loaded.clone());
                Ok(loaded)
            }
            Err(error)
                if self.is(Mistake::HiddenIsInvalid)
                    && error.kind() == StoreErrorKind::NotAuthoritative
                    || self.is(Mistake::ErrorIsInvalid) =>
            {
                self.nothing(digests, error)
            }
            Err(error) => Err(error),
        }
    }

    fn updated(&self, change: Result<Change, StoreError>) -> Result<Change, StoreError> {
        if self.is(Mistake::UpdateSkipsUnlink) {
            self.skip(&change);
        }
        change
    }

    fn rotated(&self, change: Result<Change, StoreError>) -> Result<Change, StoreError> {
        if self.is(Mistake::RotateSkipsUnlink) {
            self.skip(&change);
        }
        change
    }

    fn touched(&self, change: Result<Change, StoreError>) -> Result<Change, StoreError> {
        match change {
            Ok(Change::Conflict) if self.is(Mistake::LockedIsInvalid) => Ok(Change::NoSession),
            touched => touched,
        }
    }

    async fn journal_since(
        &self,
        store: &S,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        if self.is(Mistake::BelievesBeforeTheFirstLoad) {
            // The second read follows at once, when the node is registered.
            match position {
                None => return Ok(nothing_yet(ONCE)),
                Some(position) if &*position.seen == ONCE => return Ok(nothing_yet("")),
                Some(_) => {}
            }
        }
        let mut read = store.journal_since(position).await?;
        // A node reads the journal before it serves copies of another incarnation, and so would be
        // saved by that.
        let incarnation_alone =
            [Mistake::WithoutIncarnation, Mistake::SealedWithThePresent].map(|it| self.is(it));
        if self.is(Mistake::JournalUnread) || incarnation_alone.contains(&true) {
            read.rows.clear();
        }
        if self.is(Mistake::JournalFromTheLastRow) {
            let before =
                position.and_then(|position| position.seen.split(':').next()?.parse().ok());
            let last = read.rows.iter().map(|row| row.xid + 1).max();
            read.next.seen = format!("{}:", last.max(before).unwrap_or(0)).into();
        }
        Ok(read)
    }
}
