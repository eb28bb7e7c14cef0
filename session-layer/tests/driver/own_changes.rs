//! What a node changed itself, over a cache in which somebody puts the old entry back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, Filled, Invalidated, Lookup, SessionCache,
};
use session_layer::{CacheError, Session, Sessions, TokenDigest, Validation};
use tokio::time::sleep;

use crate::ports::{HOUR, Store, ask, token};

const INTERVAL: Duration = Duration::from_millis(500);

/// Whoever asks gets this entry, whatever was removed.
#[derive(Clone, Default)]
struct Replays(Arc<Mutex<Option<Entry>>>);

impl Replays {
    fn put_back(&self, session: &Session, version: i64) {
        let mut parts = session.parts().clone();
        parts.version = version;
        let read_at = parts.last_seen_at;
        *self.0.lock().unwrap() = Some(Entry {
            session: parts.into(),
            store_id: [7; 16],
            xmin: 0,
            read_at,
            not_after: read_at.after(HOUR),
        });
    }
}

impl SessionCache for Replays {
    type Lease = ();

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<()>> {
        let entry = self.0.lock().unwrap().clone();
        let entry = entry.filter(|entry| judge(entry) == Belief::Believed);
        let answer = |_| entry.clone().map_or(Lookup::DoNotFill, Lookup::Hit);
        digests.iter().map(answer).collect()
    }
    async fn fill(&self, (): (), _: &Entry, _: Duration) -> Result<Filled, CacheError> {
        Ok(Filled::Refused)
    }
    async fn fence(&self, _: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }
    async fn invalidate(&self, _: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        Ok(Invalidated::Everywhere)
    }
    fn status(&self) -> CacheStatus {
        CacheStatus::new("stub")
    }
    async fn probe(&self) -> CacheProbe {
        CacheProbe::default()
    }
    async fn close(&self) {}
}

/// A node that has read the journal, and the session with token 1, of which nothing is in the cache yet.
async fn node() -> (Replays, Store, Sessions, Session) {
    let (cache, store) = (Replays::default(), Store::new());
    store.shared();
    let sessions = Sessions::builder(cache.clone(), store.clone())
        .journal_interval(INTERVAL)
        .build();
    sleep(INTERVAL * 3).await;
    let Validation::Valid(session) = sessions.validate(&token(1)).await else {
        panic!("it is alive");
    };
    // The next read of the journal is not due yet.
    sleep(INTERVAL / 10).await;
    (cache, store, sessions, session)
}

#[tokio::test(start_paused = true)]
async fn a_node_serves_no_entry_put_back_of_a_session_that_it_ended() {
    let (cache, _, sessions, session) = node().await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "it is believed");

    let read = sessions.metrics().journal_reads;
    let _reach = sessions.revoke(&token(1)).await.unwrap();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(sessions.metrics().journal_reads, read, "it need not tell");

    // From then on the journal says it, and this one has no rows: what it held back itself is forgotten.
    sleep(INTERVAL).await;
    assert_eq!(ask(&sessions, 1).await, "valid");
}

/// And of one that it updated none that is older; the new one is served.
#[tokio::test(start_paused = true)]
async fn a_node_serves_no_entry_put_back_that_it_replaced() {
    let (cache, _, sessions, session) = node().await;
    let updated = sessions.update(&session, 1).await.unwrap().value;
    assert_eq!(updated.version(), 2);
    for (version, hits) in [(1, 0), (2, 1)] {
        cache.put_back(&session, version);
        assert_eq!(ask(&sessions, 1).await, "valid");
        assert_eq!(sessions.metrics().hits, hits, "version {version}");
    }
}

/// A session is over by the store's clock, also for a node that has nothing but hits, and so asks it for nothing but
/// the journal.
#[tokio::test(start_paused = true)]
async fn a_node_that_has_only_hits_hears_of_a_clock_that_was_stepped() {
    let (cache, store, sessions, session) = node().await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1);
    store.steps(HOUR * 2);
    sleep(INTERVAL * 2).await;
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "it was over, and was read");
}
