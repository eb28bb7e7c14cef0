//! The race that a cache beside a database loses: a reader has read the old row, the change is
//! committed and the copy removed, and then the reader's fill arrives.
//!
//! It is forced, not hoped for: the read is stopped between Postgres' answer and the fill while the
//! change is made, 1,000 times, with every fence lost. To show that the test can fail, the same is
//! done with the fill as a plain SET: then all 1,000 come back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::value::RawValue;
use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, Filled, Invalidated, Lookup, RedisCache, RedisLease,
    SessionCache,
};
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, Loaded, PostgresStore, Revoked, SessionStore,
    Target,
};
use session_layer::{
    CacheError, CheckedSession, ListedSession, NewSession, SessionId, Sessions, StoreError,
    TokenDigest, Validation,
};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::wait;
use tokio::sync::oneshot;

use crate::harness::{Failure, Outcome, Registry};
use crate::support::{SOON, built, cache, store};

const TRIES: usize = 1_000;
const AT_ONCE: usize = 25;

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared(
        "a_late_fill_never_brings_a_revoked_session_back",
        revoke_lease,
    );
    reg.shared("a_late_fill_never_brings_old_data_back", update_lease);
    reg.shared(
        "with_a_plain_set_as_the_fill_all_revoked_come_back",
        revoke_plain_set,
    );
    reg.shared(
        "with_a_plain_set_as_the_fill_all_old_data_comes_back",
        update_plain_set,
    );
    reg.shared(
        "once_invalid_was_answered_a_late_fill_is_refused",
        deleted_by_hand,
    );
}

/// A row deleted by plain SQL: nobody unlinks its key. But a node that has answered "invalid" has seen
/// to it that a fill under way, of a row read before the DELETE, comes to nothing.
async fn deleted_by_hand(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let stops = Arc::new(Stops::default());
    let late = Faulty::new(&backends, &sandbox, FillBy::Lease).await?;
    let late_fills = Arc::clone(&late.late_fills);
    let stopping = Stopping {
        store: store(&sandbox).await?,
        stops: Arc::clone(&stops),
    };
    let slow = built(late, stopping);
    let other = crate::support::sessions(&sandbox).await?;
    crate::support::until_connected(&other).await?;
    let alice = slow.create(NewSession::new("alice")).await?;
    let token = alice.token.reveal().to_owned();
    let (arrived, go_on) = stops.next_read_of(alice.token.digest());
    let reading = tokio::spawn({
        let (slow, token) = (slow.clone(), token.clone());
        async move { slow.validate(&token).await }
    });
    arrived.await?;
    let delete = format!(
        "DELETE FROM {}.sessions WHERE id = '{}'",
        sandbox.schema(),
        alice.session.id()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(delete))
        .execute(&mut backends.postgres().connect().await?)
        .await?;
    assert!(matches!(other.validate(&token).await, Validation::Invalid));
    let _ = go_on.send(());
    assert!(
        matches!(reading.await?, Validation::Valid(_)),
        "it began before the DELETE"
    );
    wait::until("the late fill", SOON, async || {
        late_fills.of(&alice.token.digest()) == 1
    })
    .await?;
    assert!(matches!(other.validate(&token).await, Validation::Invalid));
    assert_eq!(slow.metrics().fills_refused, 1);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChangeBy {
    Revoke,
    Update,
}

async fn revoke_lease(backends: Arc<Backends>) -> Outcome {
    assert_eq!(
        resurrected(&backends, ChangeBy::Revoke, FillBy::Lease).await?,
        0
    );
    Ok(())
}

async fn update_lease(backends: Arc<Backends>) -> Outcome {
    assert_eq!(
        resurrected(&backends, ChangeBy::Update, FillBy::Lease).await?,
        0
    );
    Ok(())
}

async fn revoke_plain_set(backends: Arc<Backends>) -> Outcome {
    assert_eq!(
        resurrected(&backends, ChangeBy::Revoke, FillBy::PlainSet).await?,
        TRIES
    );
    Ok(())
}

async fn update_plain_set(backends: Arc<Backends>) -> Outcome {
    assert_eq!(
        resurrected(&backends, ChangeBy::Update, FillBy::PlainSet).await?,
        TRIES
    );
    Ok(())
}

/// In how many of the tries the old state was served after its end.
async fn resurrected(
    backends: &Backends,
    change: ChangeBy,
    fill: FillBy,
) -> Result<usize, Failure> {
    let sandbox = backends.sandbox();
    let cache = Faulty::new(backends, &sandbox, fill).await?;
    let stops = Arc::new(Stops::default());
    let store = Stopping {
        store: store(&sandbox).await?,
        stops: Arc::clone(&stops),
    };
    let late_fills = Arc::clone(&cache.late_fills);
    let sessions = built(cache, store);
    let tries = stream::iter(0..TRIES)
        .map(|number| one_try(&sessions, &stops, &late_fills, change, number))
        .buffer_unordered(AT_ONCE);
    let came_back: Vec<bool> = tries.try_collect().await?;
    let fences = sessions.metrics();
    eprintln!(
        "{} fills refused, {} stored",
        fences.fills_refused, fences.fills
    );
    Ok(came_back.into_iter().filter(|back| *back).count())
}

async fn one_try(
    sessions: &Sessions,
    stops: &Stops,
    late_fills: &LateFills,
    change: ChangeBy,
    number: usize,
) -> Result<bool, Failure> {
    let created = sessions
        .create(NewSession::new(format!("user {number}")).data("old"))
        .await?;
    let digest = created.token.digest();
    let token = created.token.reveal().to_owned();

    let (arrived, go_on) = stops.next_read_of(digest);
    let reading = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.validate(&token).await }
    });
    arrived.await?;
    let changed = match change {
        ChangeBy::Revoke => sessions.revoke(created.token.reveal()).await?.reach,
        ChangeBy::Update => sessions.update(&created.session, "new").await?.reach,
    };
    assert_eq!(changed, session_layer::Reach::Propagated);
    let _ = go_on.send(());
    // The read that began before the change may still answer the old state; its fill is what counts.
    assert!(
        matches!(reading.await?, Validation::Valid(session) if session.data::<String>()? == "old")
    );
    wait::until("the late fill", SOON, async || late_fills.of(&digest) == 1).await?;

    match sessions.validate(created.token.reveal()).await {
        Validation::Valid(session) => {
            Ok(change == ChangeBy::Revoke || session.data::<String>()? == "old")
        }
        Validation::Invalid => {
            assert!(change == ChangeBy::Revoke);
            Ok(false)
        }
        other => panic!("{other:?}"),
    }
}

/// Tells that the read is there, and waits for being told to go on.
type Stop = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// Reads that are to stop on their way back from Postgres.
#[derive(Default)]
struct Stops(Mutex<HashMap<TokenDigest, Stop>>);

impl Stops {
    /// The first half says when the read has Postgres' answer, the second lets it return.
    fn next_read_of(&self, digest: TokenDigest) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (arrive, arrived) = oneshot::channel();
        let (go_on, gone_on) = oneshot::channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, (arrive, gone_on));
        (arrived, go_on)
    }

    async fn pass(&self, digest: &TokenDigest) {
        let stop = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest);
        if let Some((arrive, gone_on)) = stop {
            let _ = arrive.send(());
            let _ = gone_on.await;
        }
    }
}

struct Stopping {
    store: PostgresStore,
    stops: Arc<Stops>,
}

impl SessionStore for Stopping {
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let loaded = self.store.load(digests).await;
        for digest in digests {
            self.stops.pass(digest).await;
        }
        loaded
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
        self.store.update(id, version, data).await
    }
    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        self.store.rotate(old, new, grace).await
    }
    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        self.store.touch(id, granularity).await
    }
    async fn list(&self, user_id: &str) -> Result<Vec<ListedSession>, StoreError> {
        self.store.list(user_id).await
    }
    async fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.store.journal_since(position).await
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

/// How the fill is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FillBy {
    /// As it should be.
    Lease,
    /// The mistake: SET, whatever stands there.
    PlainSet,
}

/// Fills that were attempted, by digest.
#[derive(Default)]
struct LateFills(Mutex<HashMap<TokenDigest, AtomicU64>>);

impl LateFills {
    fn add(&self, digest: TokenDigest) {
        let mut fills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fills
            .entry(digest)
            .or_default()
            .fetch_add(1, Ordering::SeqCst);
    }

    fn of(&self, digest: &TokenDigest) -> u64 {
        let fills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fills
            .get(digest)
            .map_or(0, |fills| fills.load(Ordering::SeqCst))
    }
}

/// A Redis on which every fence is lost, and, as a mutant, fills don't look at their lease.
struct Faulty {
    cache: RedisCache,
    fill: FillBy,
    redis: MultiplexedConnection,
    namespace: String,
    late_fills: Arc<LateFills>,
}

impl Faulty {
    async fn new(backends: &Backends, sandbox: &Sandbox, fill: FillBy) -> Result<Self, Failure> {
        Ok(Self {
            cache: cache(sandbox.redis_url(), sandbox)?,
            fill,
            redis: backends.redis().connect().await?,
            namespace: sandbox.namespace().to_owned(),
            late_fills: Arc::default(),
        })
    }

    /// What a plain SET does: whatever stands there is replaced. (Made of DEL and a lease taken after the
    /// read, since only the cache can write an entry.)
    async fn plain_set(
        &self,
        digest: TokenDigest,
        entry: &Entry,
        lifetime: Duration,
    ) -> redis::RedisResult<()> {
        let key = format!("{}:1:{}", self.namespace, digest.to_base64url());
        let () = self.redis.clone().del(key).await?;
        let leased = self.cache.get(&[digest], &|_| Belief::Dead).await.pop();
        let Some(Lookup::Leased(lease)) = leased else {
            panic!("no lease for an empty key: {leased:?}")
        };
        let filled = self.cache.fill(lease, entry, lifetime).await;
        assert!(matches!(filled, Ok(Filled::Stored)), "{filled:?}");
        Ok(())
    }
}

impl SessionCache for Faulty {
    type Lease = (TokenDigest, RedisLease);

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<Self::Lease>> {
        let found = self.cache.get(digests, judge).await;
        let with_digest = |(digest, lookup): (&TokenDigest, Lookup<RedisLease>)| match lookup {
            Lookup::Hit(entry) => Lookup::Hit(entry),
            Lookup::Leased(lease) => Lookup::Leased((*digest, lease)),
            Lookup::Failed(error) => Lookup::Failed(error),
            _ => Lookup::DoNotFill,
        };
        digests.iter().zip(found).map(with_digest).collect()
    }

    async fn fill(
        &self,
        (digest, lease): Self::Lease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        let filled = match self.fill {
            FillBy::Lease => self.cache.fill(lease, entry, lifetime).await,
            FillBy::PlainSet => {
                self.plain_set(digest, entry, lifetime)
                    .await
                    .expect("Redis is there");
                Ok(Filled::Stored)
            }
        };
        self.late_fills.add(digest);
        filled
    }

    async fn fence(&self, _digests: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        self.cache.invalidate(digests).await
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
