//! A node's own changes, over a cache in which an attacker restores the old entry.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::cache::{
    CacheId, CacheIdentity, CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated,
    Lookup, SessionCache,
};
use session_layer::error::CacheError;
use session_layer::{Session, Sessions, TokenDigest, Validation};
use tokio::time::sleep;

use crate::ports::{HOUR, Store, ask, token};

pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// A cache that returns one entry for every key, whatever was removed. It may turn into another
/// cache with the same entry.
#[derive(Clone, Default)]
pub(crate) struct Replays(Arc<Mutex<Option<Entry>>>, Arc<AtomicU8>);

impl Replays {
    pub(crate) fn becomes(&self, other: u8) {
        self.1.store(other, Ordering::SeqCst);
    }

    pub(crate) fn put_back(&self, session: &Session, version: i64) {
        let mut parts = session.parts().clone();
        parts.version = version;
        let read_at = parts.last_seen_at;
        *self.0.lock().unwrap() = Some(Entry {
            session: parts.into(),
            user_epoch: 0,
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
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<()>> {
        let entry = self.0.lock().unwrap().clone();
        let entry = entry.filter(|entry| judge(entry) == EntryVerdict::Fresh);
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
    fn identity(&self) -> CacheIdentity {
        CacheIdentity::Shared(CacheId::of(&[&[self.1.load(Ordering::SeqCst)]]))
    }
    fn status(&self) -> CacheStatus {
        CacheStatus::new("stub")
    }
    async fn probe(&self) -> CacheProbe {
        CacheProbe::default()
    }
    async fn close(&self) {}
}

/// Returns a node that has read the journal, and the session of token 1, which is not cached yet.
pub(crate) async fn node() -> (Replays, Store, Sessions, Session) {
    let (cache, store) = (Replays::default(), Store::new());
    store.shared();
    let sessions =
        Sessions::builder(cache.clone(), store.clone()).journal_interval(INTERVAL).build().unwrap();
    sleep(INTERVAL * 3).await;
    let Validation::Valid(session) = sessions.validate(&token(1)).await else {
        panic!("the session is active");
    };
    // The next read of the journal is not due yet.
    sleep(INTERVAL / 10).await;
    (cache, store, sessions, session)
}

#[tokio::test(start_paused = true)]
async fn restored_entry_of_an_ended_session_is_not_served() {
    let (cache, _, sessions, session) = node().await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "the entry is served");

    let read = sessions.metrics().journal_reads;
    let _reach = sessions.revoke(&token(1)).await.unwrap();
    assert_eq!(ask(&sessions, 1).await, "invalid");
    assert_eq!(sessions.metrics().journal_reads, read, "no journal read is needed");

    // From then on the journal decides, which has no rows. The node drops its own record.
    sleep(INTERVAL).await;
    assert_eq!(ask(&sessions, 1).await, "valid");
}

// After an update, the node serves no older entry. It serves the new one.
#[tokio::test(start_paused = true)]
async fn restored_entry_of_an_older_version_is_not_served() {
    let (cache, _, sessions, session) = node().await;
    let updated = sessions.update(&session, 1).await.unwrap().value;
    assert_eq!(updated.version(), 2);
    for (version, hits) in [(1, 0), (2, 1)] {
        cache.put_back(&session, version);
        assert_eq!(ask(&sessions, 1).await, "valid");
        assert_eq!(sessions.metrics().hits, hits, "version {version}");
    }
}

// Postgres' clock ends a session, also on a node with only hits, which queries only the journal.
#[tokio::test(start_paused = true)]
async fn node_with_only_hits_observes_a_stepped_clock() {
    let (cache, store, sessions, session) = node().await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1);
    store.steps(HOUR * 2);
    sleep(INTERVAL * 2).await;
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "the entry had expired, and the store was read");
}
