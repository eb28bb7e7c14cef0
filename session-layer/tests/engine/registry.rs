//! The registration of caches, and the life of the store.

use std::time::Duration;

use session_layer::Visibility;
use tokio::time::sleep;

use super::own_changes::{INTERVAL, node};
use crate::ports::{ask, token, valid};

/// The longest life of a registration after its last renewal: the TTL, D and a margin.
const LAPSED: Duration = Duration::from_secs(400);

#[tokio::test(start_paused = true)]
async fn cache_that_is_not_registered_serves_nothing() {
    let (cache, store, sessions, session) = node().await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "the cache was registered at the start");
    let first = store.state().nodes.clone();
    assert_eq!(first.len(), 1);

    // Connections now lead to another server. Other nodes never removed its entries.
    store.state().refuses_nodes = true;
    cache.state().server = Some(1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    sleep(INTERVAL * 2).await;
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "the store was read");
    let errors = sessions.recent_errors().join("\n");
    assert!(errors.contains("registering this node"), "{errors}");

    store.state().refuses_nodes = false;
    sleep(INTERVAL * 2).await;
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 2);
    let second = store.state().nodes.clone();
    assert_eq!(second.len(), 1, "the first registration was removed");
    assert_ne!(second[0].id, first[0].id);
    assert_ne!(second[0].cache, first[0].cache);
}

// The registration has expired in the store by then, and changes ignore this node.
#[tokio::test(start_paused = true)]
async fn node_that_cannot_renew_its_registration_stops_serving() {
    let (cache, store, sessions, session) = node().await;
    store.state().refuses_nodes = true;
    sleep(INTERVAL * 20).await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1, "the registration remains valid for a while");
    sleep(LAPSED).await;
    let lapsed = store.state().nodes[0].lasts;
    assert!(lapsed > Duration::from_secs(302) && lapsed < LAPSED, "{lapsed:?}");
    let session = valid(&sessions, 1).await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1);
}

#[tokio::test(start_paused = true)]
async fn revocation_is_propagated_only_while_all_nodes_share_the_cache() {
    let (_, store, sessions, _) = node().await;
    store.state().other_cache = true;
    let committed = sessions.revoke(&token(1)).await.unwrap().visibility;
    assert!(matches!(committed, Visibility::Committed { .. }), "{committed:?}");
    store.state().other_cache = false;
    let again = sessions.revoke(&token(1)).await.unwrap().visibility;
    assert_eq!(again, Visibility::Propagated);
}

#[tokio::test(start_paused = true)]
async fn node_that_shuts_down_is_forgotten() {
    let (_, store, sessions, _) = node().await;
    assert_eq!(store.state().nodes.len(), 1);
    sessions.shutdown(INTERVAL).await.unwrap();
    assert_eq!(store.state().nodes, []);
}

// After a cut-over with the old server still running, reads and the journal come from two servers.
#[tokio::test(start_paused = true)]
async fn read_of_another_life_than_the_journal_is_unavailable() {
    let (_, store, sessions, _) = node().await;
    assert_eq!(ask(&sessions, 1).await, "valid");
    store.state().journal_elsewhere = true;
    sleep(INTERVAL * 2).await;
    assert_eq!(ask(&sessions, 1).await, "unavailable");
    sleep(INTERVAL).await;
    let errors = sessions.recent_errors().join("\n");
    assert!(errors.contains("cut-over"), "{errors}");
    // The journal is read at once, and a request that waits for it succeeds.
    let reads = sessions.metrics().journal_reads;
    store.state().journal_elsewhere = false;
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().journal_reads, reads + 1);
}

// After a restart of Postgres, every entry is from another life.
#[tokio::test(start_paused = true)]
async fn copy_of_another_life_is_not_served() {
    let (cache, store, sessions, session) = node().await;
    cache.put_back(&session, 1);
    assert_eq!(ask(&sessions, 1).await, "valid");
    assert_eq!(sessions.metrics().hits, 1);
    store.state().journal_elsewhere = true;
    sleep(INTERVAL * 2).await;
    let _ = ask(&sessions, 1).await;
    assert_eq!(sessions.metrics().hits, 1);
}
