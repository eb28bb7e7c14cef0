//! The store is cleaned every minute, also after a failed attempt.

use std::time::Duration;

use session_layer::Sessions;
use session_layer::cache::LEASE_TTL;
use tokio::time::sleep;

use crate::ports::{Cache, HOUR, Store};

const TTL: Duration = Duration::from_secs(100);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn store_is_cleaned_each_minute_also_after_an_error() {
    let store = Store::new();
    let sessions = Sessions::builder(Cache::default(), store.clone())
        .ttl(TTL)
        .retention(Some(HOUR))
        .build()
        .unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(store.state().cleaned, []);
    // Both halves of the first round fail.
    sleep(MINUTE).await;
    let round = [("purge", (TTL + LEASE_TTL) * 2), ("sweep", HOUR)];
    assert_eq!(store.state().cleaned, round);
    let errors = sessions.recent_errors().join("\n");
    for what in ["purging the journal", "sweeping ended sessions"] {
        assert!(errors.contains(what), "{errors}");
    }
    sleep(MINUTE).await;
    assert_eq!(store.state().cleaned, [round, round].concat());
}
