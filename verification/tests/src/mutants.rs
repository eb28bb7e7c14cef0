//! Broken variants of the protocol around any cache and any store.
//! `verification/simulation/README.md` has the table of the checks that catch them.
//!
//! The simulated adapters (`verification/simulation/src/cache.rs`, `store.rs`) make the mistakes
//! that only an adapter can make. `changes/adapter_mutants.rs` makes the same on a real Redis.

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
    RegistrationId, RevocationNote, Revoked, Row, SessionStore, StoreId, Target,
};
use session_layer::{ListCursor, LoginSnapshot, SessionId, SessionPage, TokenDigest};
use tokio::time::Instant;

/// A broken variant of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    // Of an adapter:
    /// A fill is a plain SET.
    WithoutALease,
    /// A fill is a SET NX, and a revocation sets a tombstone instead of an UNLINK.
    TombstoneAndSetNx,
    /// All leases are the same bytes.
    NonceReused,
    /// An entry does not name the incarnation of its server.
    WithoutIncarnation,
    /// A fill uses the present link and incarnation, not those of its lease.
    SealedWithThePresent,
    /// Neither the cache, nor the store, nor the engine has a deadline.
    NoDeadline,
    /// An entry is compared with the changed set first, and with the journal's age later.
    AgeAfterTheSet,
    /// A read of the journal returns the rows since the last one by the clock.
    JournalByTime,
    /// Rows of the journal are purged, and its floor is not raised.
    PurgeLeavesTheFloor,
    /// Rows of transactions after a running one are purged too. The floor stays below the running
    /// one, so that fresh entries are served.
    PurgesPastTheRunning,
    // Around any port:
    /// The entries are removed before the COMMIT, and not after it.
    UnlinkBeforeCommitOnly,
    /// No fence and no UNLINK is sent.
    NeverUnlinks,
    /// A read joins one that is in flight.
    JoinsAReadUnderWay,
    /// An update does not UNLINK.
    UpdateSkipsUnlink,
    /// A rotation does not UNLINK.
    RotateSkipsUnlink,
    /// A row that row-level security hides counts as absent.
    HiddenIsInvalid,
    /// A row that could not be read counts as absent.
    ErrorIsInvalid,
    /// A row that a touch finds locked counts as absent.
    LockedIsInvalid,
    /// The journal is read, and its rows are dropped.
    JournalUnread,
    /// The next read of the journal begins after the last row of this one.
    JournalFromTheLastRow,
    /// A new node takes the journal as empty until the third read.
    BelievesBeforeTheFirstLoad,
    /// A node that wakes from a pause takes the journal as unchanged until the third read.
    BelievesAfterAPause,
}

/// The shared state of the two wrappers of one node.
#[derive(Clone, Default)]
pub struct Broken(Arc<BrokenState>);

#[derive(Default)]
struct BrokenState {
    mistake: Option<Mistake>,
    /// The digests whose UNLINK is skipped.
    skipped: Mutex<BTreeSet<TokenDigest>>,
    reads: Mutex<BTreeMap<Vec<TokenDigest>, SharedRead>>,
    /// The store's last reply.
    last: Mutex<Option<ReadResult>>,
    /// When the journal was read last, and how many reads are left out.
    journal: Mutex<(Option<Instant>, usize)>,
}

type SharedRead = Shared<BoxFuture<'static, Result<ReadResult, Arc<StoreError>>>>;

/// Implements methods of a port by the same methods of the field `$port`.
macro_rules! delegate {
    ($port:ident: $(fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {$(
        async fn $name(&self, $($arg: $type),*) -> $out {
            self.$port.$name($($arg),*).await
        }
    )*};
}

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

/// The broken methods of a cache. By default, the cache itself handles a call.
pub trait BreaksCache<C: SessionCache>: Send + Sync + 'static {
    /// Runs after a lease was granted.
    fn granted(&self, _: &TokenDigest) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

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

/// A broken cache, by default with the mistakes that are possible around any cache.
pub struct BrokenCache<C, B = Broken> {
    pub cache: C,
    pub broken: B,
}

impl<C: SessionCache, B: BreaksCache<C>> SessionCache for BrokenCache<C, B> {
    /// The digest tells a broken fill its key.
    type Lease = (TokenDigest, C::Lease);

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<Self::Lease>> {
        let mut lookups = Vec::with_capacity(digests.len());
        for (digest, lookup) in digests.iter().zip(self.cache.get(digests, judge).await) {
            lookups.push(match lookup {
                Lookup::Hit(entry) => Lookup::Hit(entry),
                Lookup::Leased(lease) => {
                    self.broken.granted(digest).await;
                    Lookup::Leased((*digest, lease))
                }
                Lookup::Refused(error) => Lookup::Refused(error),
                Lookup::Failed(error) => Lookup::Failed(error),
                _ => Lookup::DoNotFill,
            });
        }
        lookups
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
    delegate! { cache:
        fn probe() -> CacheProbe;
        fn close() -> ();
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

/// The position after the first read under [`Mistake::BelievesBeforeTheFirstLoad`].
const ONCE: &str = "once";

/// Returns a read of an empty journal.
fn empty_journal(seen: &str) -> JournalRead {
    JournalRead {
        store_id: *b"simulated store!",
        rows: Vec::new(),
        next: JournalPosition { store_id: *b"simulated store!", seen: seen.into(), page: None },
        floor: 0,
        now: session_layer::Timestamp::now(),
    }
}

/// The broken methods of a store. By default, the store itself handles a call.
pub trait BreaksStore<S: SessionStore>: Send + Sync + 'static {
    fn load(
        &self,
        store: &Arc<S>,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<ReadResult, StoreError>> + Send {
        store.load(digests)
    }

    /// Returns the default of the port.
    fn max_concurrent_reads(&self) -> usize {
        4
    }

    /// Returns the result of a change of the data.
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

/// A broken store, by default with the mistakes that are possible around any store.
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

    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.broken.journal_since(&self.store, position).await
    }

    delegate! { store:
        fn create(digest: TokenDigest, new: &ValidatedSession) -> Result<Creation, StoreError>;
        fn digests(target: &Target) -> Result<Vec<TokenDigest>, StoreError>;
        fn revoke(target: &Target, note: &RevocationNote) -> Result<Revoked, StoreError>;
        fn list(user: &str, after: Option<ListCursor>, limit: usize)
            -> Result<SessionPage, StoreError>;
        fn login_snapshot() -> Result<LoginSnapshot, StoreError>;
        fn end_rows(user: &EndedUser, note: &RevocationNote, after: Option<ListCursor>)
            -> Result<Option<ListCursor>, StoreError>;
        fn register_node(node: &NodeRegistration) -> Result<Option<StoreId>, StoreError>;
        fn forget_node(id: RegistrationId) -> Result<(), StoreError>;
        fn is_one_cache(cache: &CacheId) -> Result<bool, StoreError>;
        fn purge_journal(keep: Duration) -> Result<u64, StoreError>;
        fn sweep(retention: Duration, most: u32) -> Result<u64, StoreError>;
        fn probe() -> Result<(), StoreError>;
        fn close_idle() -> ();
        fn close() -> ();
    }

    fn is_exclusive(&self) -> bool {
        self.store.is_exclusive()
    }
    fn backend(&self) -> &'static str {
        self.store.backend()
    }
}

impl Broken {
    /// Returns the reply of a read in flight of these digests, or of a new one.
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

    /// Returns whether a read of the journal is left out, because the last one was long ago. The
    /// second one follows at once, when the node is registered.
    fn leaves_out_a_read(&self) -> bool {
        const PAUSE: Duration = Duration::from_secs(1);
        let (now, mut journal) = (Instant::now(), lock(&self.0.journal));
        let (last, left) = &mut *journal;
        if last.replace(now).is_some_and(|last| now.saturating_duration_since(last) > PAUSE) {
            *left = 2;
        }
        let leaves_out = *left > 0;
        *left = left.saturating_sub(1);
        leaves_out
    }

    /// Returns the last reply with absent rows.
    fn nothing(
        &self,
        digests: &[TokenDigest],
        error: StoreError,
    ) -> Result<ReadResult, StoreError> {
        let mut last = lock(&self.0.last).clone().ok_or(error)?;
        last.rows = vec![Row::Absent; digests.len()];
        Ok(last)
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
                *lock(&self.0.last) = Some(loaded.clone());
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
                None => return Ok(empty_journal(ONCE)),
                Some(position) if &*position.seen == ONCE => return Ok(empty_journal("")),
                Some(_) => {}
            }
        }
        let leaves_out = self.is(Mistake::BelievesAfterAPause) && self.leaves_out_a_read();
        let mut read = store.journal_since(position).await?;
        if let (true, Some(position)) = (leaves_out, position) {
            return Ok(JournalRead { rows: Vec::new(), next: position.clone(), floor: 0, ..read });
        }
        // A node reads the journal before it serves entries of another incarnation, which would
        // hide these mistakes.
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
