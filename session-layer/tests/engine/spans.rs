//! The longest spans of time that settings allow.

use std::time::Duration;

use session_layer::error::CacheErrorKind;
use session_layer::limits::MAX_LIFETIME;
use session_layer::{Sessions, Visibility};

use crate::ports::{Cache, HOUR, Store, ask, token};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn longest_spans_overflow_no_moment() {
    let (cache, store) = (Cache::default(), Store::shared());
    store.remove(2);
    let sessions = Sessions::builder(cache.clone(), store)
        .ttl(DAY)
        .validation_timeout(DAY)
        .change_wait(DAY)
        .slow_lookup_threshold(Duration::MAX)
        .journal_interval(DAY)
        .retention(Some(MAX_LIFETIME))
        .build()
        .unwrap();
    assert_eq!(sessions.ttl(), DAY);
    assert_eq!(ask(&sessions, 1).await, "valid");
    tokio::time::sleep(DAY + HOUR).await;
    // At the start, at once after the registration, and after a day.
    assert_eq!(sessions.metrics().journal_reads, 3);
    // An unacknowledged invalidation is kept until its entries have expired.
    cache.fails(CacheErrorKind::Unreachable);
    let changed = sessions.revoke(&token(2)).wait(Duration::MAX).await;
    assert_eq!(changed.unwrap().visibility, Visibility::Nothing);
    assert_eq!(sessions.metrics().pending_invalidations, 1);
    cache.fails(None);
    tokio::time::sleep(HOUR).await;
    assert_eq!(sessions.metrics().pending_invalidations, 0);
    sessions.shutdown(Duration::MAX).await.unwrap();
}
