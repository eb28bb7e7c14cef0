//! A node's own changes, over a cache in which an attacker restores the old entry.

use std::time::Duration;

use session_layer::{Session, Sessions};
use tokio::time::sleep;

use crate::ports::{Cache, HOUR, Store, ask, token, valid};

pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// Returns a node that has read the journal, and the session of token 1, which is not cached yet.
pub(super) async fn node() -> (Cache, Store, Sessions, Session) {
    let (cache, store) = (Cache::default(), Store::shared());
    cache.state().server = Some(0);
    let sessions =
        Sessions::builder(cache.clone(), store.clone()).journal_interval(INTERVAL).build().unwrap();
    sleep(INTERVAL * 3).await;
    let session = valid(&sessions, 1).await;
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
    store.state().ahead = HOUR * 2;
    sleep(INTERVAL * 2).await;
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "the entry had expired, and the store was read");
}
