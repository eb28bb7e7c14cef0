//! Spans of time that are too long to be added to a moment.

use std::time::Duration;

use session_layer::{CacheErrorKind, Reach, Sessions};

use crate::ports::{Cache, HOUR, Store, ask, token};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn none_is_too_long() {
    let (cache, store) = (Cache::default(), Store::new());
    store.absent(2);
    store.shared();
    let sessions = Sessions::builder(cache.clone(), store)
        .ttl(Duration::MAX)
        .budget(Duration::MAX)
        .slow_call(Duration::MAX)
        .journal_interval(Duration::MAX)
        .retention(Some(Duration::MAX))
        .build();
    assert_eq!(sessions.ttl(), DAY);
    assert_eq!(ask(&sessions, 1).await, "valid");
    tokio::time::sleep(DAY + HOUR).await;
    // Its first read panics.
    assert_eq!(sessions.metrics().journal_reads, 1);
    // What is not acknowledged is kept until its copies have died.
    cache.fails(CacheErrorKind::Unreachable);
    let changed = sessions.revoke_and_wait(&token(2), Duration::MAX).await;
    assert_eq!(changed.unwrap().reach, Reach::Nothing);
    assert_eq!(sessions.metrics().unacknowledged, 1);
    cache.fails(None);
    tokio::time::sleep(HOUR).await;
    assert_eq!(sessions.metrics().unacknowledged, 0);
    sessions.shutdown(Duration::MAX).await.unwrap();
}
