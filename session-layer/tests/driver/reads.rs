//! Coalescing and the bulkhead, over a store whose reads are held.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all};
use serde_json::value::RawValue;
use session_layer::cache::NoCache;
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, Loaded, Revoked, SessionStore, Target,
};
use session_layer::{
    CheckedSession, ListedSession, LoginMoment, SessionId, Sessions, StoreError, TokenDigest,
};
use tokio::time::{Instant, sleep};

use crate::ports::{Cache, HOUR, Store, ask, until};

const BUDGET: Duration = Duration::from_millis(250);

fn sessions(store: impl SessionStore, reads_at_once: usize, budget: Duration) -> Sessions {
    Sessions::builder(NoCache, store)
        .reads_at_once(reads_at_once)
        .budget(budget)
        .build()
}

/// A validation of token `n` in a task of its own, as a request is.
fn asking(sessions: &Sessions, n: usize) -> tokio::task::JoinHandle<&'static str> {
    let sessions = sessions.clone();
    tokio::spawn(async move { ask(&sessions, n).await })
}

/// What a caller is told who comes after a revocation, while a read from before it is on its way.
async fn told_after_the_revocation(sessions: &Sessions, store: &Store) -> &'static str {
    let before = asking(sessions, 1);
    until("the first read", || store.in_flight() == 1).await;
    store.end(1);
    let after = asking(sessions, 1);
    // The second read has begun, or waits for the first one's slot, or (the mistake) will never be.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.let_pass(2);
    assert_eq!(before.await.unwrap(), "valid", "it began before");
    after.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_comes_during_a_read_is_not_answered_by_it() {
    for slots in [1, 2, 8] {
        let store = Store::held();
        let sessions = sessions(store.clone(), slots, HOUR);
        let told = told_after_the_revocation(&sessions, &store).await;
        assert_eq!(told, "invalid", "{slots} slots");
        assert_eq!(store.reads(), [1, 1]);
    }
}

/// That the test above can fail: with reads that are joined while they are in flight, a session is let in
/// that was revoked before the request came.
#[tokio::test(start_paused = true)]
async fn joining_a_read_in_flight_lets_a_revoked_session_in() {
    let store = Store::held();
    let mutant = JoinsInFlight {
        store: store.clone(),
        reads: Arc::default(),
    };
    let sessions = sessions(mutant, 2, HOUR);
    assert_eq!(told_after_the_revocation(&sessions, &store).await, "valid");
}

#[tokio::test(start_paused = true)]
async fn callers_for_one_token_share_the_next_read() {
    let store = Store::held();
    let sessions = sessions(store.clone(), 1, HOUR);
    let first = asking(&sessions, 1);
    until("the first read", || store.in_flight() == 1).await;
    let rest: Vec<_> = (0..200).map(|_| asking(&sessions, 2)).collect();
    until("all to wait", || sessions.metrics().reads_waiting == 200).await;
    store.let_pass(2);
    assert_eq!(first.await.unwrap(), "valid");
    for one in rest {
        assert_eq!(one.await.unwrap(), "valid");
    }
    assert_eq!(store.reads(), [1, 1]);
    let metrics = sessions.metrics();
    assert_eq!((metrics.store_reads, metrics.tokens_read), (2, 2));
    assert_eq!((metrics.coalesced, metrics.reads_waiting), (199, 0));
}

#[tokio::test(start_paused = true)]
async fn tokens_that_wait_become_one_read_up_to_a_limit() {
    let store = Store::held();
    let sessions = sessions(store.clone(), 1, HOUR);
    let mut all = vec![asking(&sessions, 0)];
    until("the first read", || store.in_flight() == 1).await;
    all.extend((1..=300).map(|n| asking(&sessions, n)));
    until("all to wait", || sessions.metrics().reads_waiting == 300).await;
    store.end(7);
    store.let_pass(4);
    for (n, answer) in join_all(all).await.into_iter().enumerate() {
        let expected = if n == 7 { "invalid" } else { "valid" };
        assert_eq!(answer.unwrap(), expected, "{n}");
    }
    assert_eq!(store.reads(), [1, 128, 128, 44]);
    assert_eq!(
        (store.most(), sessions.metrics().most_reads_in_flight),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_in_flight_never_exceed_the_bulkhead() {
    let store = Store::new();
    store.takes(Duration::from_millis(1));
    let sessions = sessions(store.clone(), 3, HOUR);
    let answers = join_all((0..5_000).map(|n| asking(&sessions, n % 700))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == "valid"));
    let metrics = sessions.metrics();
    assert_eq!(store.most(), 3, "{metrics:?}");
    assert_eq!(
        (metrics.most_reads_in_flight, metrics.reads_at_once),
        (3, 3)
    );
    assert_eq!((metrics.reads_in_flight, metrics.reads_waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_callers_all_left_before_its_read_is_not_read() {
    let store = Store::held();
    let sessions = sessions(store.clone(), 1, HOUR);
    let first = asking(&sessions, 1);
    until("the first read", || store.in_flight() == 1).await;
    let (left, stays) = (asking(&sessions, 2), asking(&sessions, 3));
    until("both to wait", || sessions.metrics().reads_waiting == 2).await;
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    store.let_pass(2);
    assert_eq!(first.await.unwrap(), "valid");
    assert_eq!(stays.await.unwrap(), "valid");
    assert_eq!(sessions.metrics().tokens_read, 2);
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_and_fills_when_its_callers_leave() {
    let (cache, store) = (Cache::default(), Store::held());
    let sessions = Sessions::builder(cache.clone(), store.clone())
        .budget(HOUR)
        .build();
    let leaves = asking(&sessions, 1);
    until("the read", || store.in_flight() == 1).await;
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    store.let_pass(1);
    until("the fill", || cache.fills() == 1).await;
}

/// A cache that loses its leases grants a second one for the same token.
/// A lease that was granted may have been lost since, and another's fill be in its place: whatever stands
/// under the key goes before "invalid" is answered. Found by the model (G3).
#[tokio::test(start_paused = true)]
async fn invalid_removes_the_key_also_with_a_lease_of_ones_own() {
    let (cache, store) = (Cache::default(), Store::new());
    store.absent(1);
    let sessions = Sessions::builder(cache.clone(), store).build();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(cache.invalidations(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_share_a_read_fill_once() {
    let (cache, store) = (Cache::default(), Store::held());
    let sessions = Sessions::builder(cache.clone(), store.clone())
        .reads_at_once(1)
        .budget(HOUR)
        .build();
    let first = asking(&sessions, 1);
    until("the first read", || store.in_flight() == 1).await;
    let rest: Vec<_> = (0..9).map(|_| asking(&sessions, 2)).collect();
    until("all to wait", || sessions.metrics().reads_waiting == 9).await;
    store.let_pass(2);
    for one in rest.into_iter().chain([first]) {
        assert_eq!(one.await.unwrap(), "valid");
    }
    sessions.shutdown(HOUR).await.unwrap();
    assert_eq!(cache.fills(), 2, "one for each token");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_answered_in_time_is_shed_at_once_and_a_store_that_recovers_is_used() {
    let store = Store::new();
    store.takes(Duration::from_millis(200));
    let sessions = sessions(store.clone(), 1, BUDGET);
    // It is known to be slow once it was.
    for n in 0..6 {
        assert_eq!(ask(&sessions, n).await, "valid");
    }
    let in_flight = asking(&sessions, 1);
    until("a read", || store.in_flight() == 1).await;
    let begin = Instant::now();
    assert_eq!(ask(&sessions, 2).await, "unavailable");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let metrics = sessions.metrics();
    assert_eq!((metrics.shed, metrics.unavailable), (1, 1));
    assert!(sessions.recent_errors()[0].contains("load was shed"));
    assert_eq!(in_flight.await.unwrap(), "valid");
    // With a slot free it is tried. It is quick again, and after a few reads that is known too.
    store.takes(Duration::from_millis(1));
    for n in 0..4 {
        assert_eq!(ask(&sessions, n).await, "valid");
    }
    let all = join_all((0..500).map(|n| asking(&sessions, n))).await;
    assert!(all.into_iter().all(|answer| answer.unwrap() == "valid"));
    assert_eq!(sessions.metrics().shed, 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_at_its_deadline() {
    let store = Store::held();
    let sessions = sessions(store.clone(), 1, BUDGET);
    let begin = Instant::now();
    let (reading, waiting) = (asking(&sessions, 1), asking(&sessions, 2));
    assert_eq!(reading.await.unwrap(), "unavailable");
    assert_eq!(waiting.await.unwrap(), "unavailable");
    assert!(begin.elapsed() <= BUDGET + Duration::from_millis(2));
    let metrics = sessions.metrics();
    assert_eq!((metrics.unavailable, metrics.shed), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_panics_costs_its_own_callers_an_answer_and_nobody_else() {
    let store = Store::held();
    let sessions = sessions(store.clone(), 1, HOUR);
    store.panics(1);
    assert_eq!(ask(&sessions, 1).await, "unavailable");
    assert!(sessions.recent_errors()[0].contains("panicked"));
    store.let_pass(2);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().reads_in_flight, 0);
    // Also those who waited behind it.
    store.panics(1);
    let both = join_all([asking(&sessions, 1), asking(&sessions, 2)]).await;
    assert_eq!(both.len(), 2);
    assert_eq!(sessions.metrics().reads_waiting, 0);
}

/// Every method of a store bounds itself in time. One that does not must not take the slots for good.
#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_gives_its_slot_back() {
    let store = Store::held();
    let sessions = sessions(store.clone(), 1, BUDGET);
    assert_eq!(ask(&sessions, 1).await, "unavailable");
    assert_eq!(
        sessions.metrics().reads_in_flight,
        1,
        "its fill may be good"
    );
    sleep(Duration::from_secs(2)).await;
    until("its end", || sessions.metrics().reads_in_flight == 0).await;
    assert_eq!(store.in_flight(), 0);
    store.let_pass(1);
    assert_eq!(ask(&sessions, 1).await, "valid");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_answers_those_who_wait() {
    let store = Store::held();
    let sessions = sessions(store.clone(), 1, HOUR);
    let all: Vec<_> = (0..300).map(|n| asking(&sessions, n)).collect();
    until("all to wait", || {
        sessions.metrics().reads_waiting >= 299 - 128
    })
    .await;
    let shutdown = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.shutdown(HOUR).await }
    });
    store.let_pass(4);
    shutdown.await.unwrap().unwrap();
    assert!(
        join_all(all)
            .await
            .into_iter()
            .all(|answer| answer.unwrap() == "valid")
    );
}

/// The slots are not lost with a runtime that ends in the middle of a read.
#[test]
fn sessions_outlive_a_runtime() {
    let store = Store::held();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    // Here time is real: a slot that was lost has to show.
    let soon = Duration::from_secs(20);
    let sessions = first.block_on(async { sessions(store.clone(), 1, soon) });
    first.block_on(async {
        let _left = asking(&sessions, 1);
        until("the read", || store.in_flight() == 1).await;
    });
    drop(first);
    store.let_pass(2);
    assert_eq!(runtime().block_on(ask(&sessions, 2)), "valid");
}

type InFlight = Shared<BoxFuture<'static, Arc<Result<Loaded, StoreError>>>>;

/// The mistake, as a store: whoever reads what is being read gets that read's answer.
struct JoinsInFlight {
    store: Store,
    reads: Arc<Mutex<HashMap<TokenDigest, InFlight>>>,
}

impl SessionStore for JoinsInFlight {
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let [digest] = *digests else {
            return self.store.load(digests).await;
        };
        let (store, reads) = (self.store.clone(), Arc::clone(&self.reads));
        let read = async move {
            let loaded = store.load(&[digest]).await;
            reads.lock().unwrap().remove(&digest);
            Arc::new(loaded)
        };
        let joined = {
            let mut reads = self.reads.lock().unwrap();
            reads
                .entry(digest)
                .or_insert_with(|| read.boxed().shared())
                .clone()
        };
        match &*joined.await {
            Ok(loaded) => Ok(loaded.clone()),
            Err(error) => Err(StoreError::new(error.kind(), error.to_string())),
        }
    }
    async fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        self.store.login_moment().await
    }
    async fn create(&self, d: TokenDigest, new: &CheckedSession) -> Result<Creation, StoreError> {
        self.store.create(d, new).await
    }
    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.store.digests(target).await
    }
    async fn revoke(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        self.store.revoke(target, reason).await
    }
    async fn update(&self, id: SessionId, v: i64, data: &RawValue) -> Result<Change, StoreError> {
        self.store.update(id, v, data).await
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
