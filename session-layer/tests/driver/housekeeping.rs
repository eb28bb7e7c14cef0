//! What is old leaves the store, minute by minute, also after one in which that failed.

use std::time::Duration;

use session_layer::Sessions;
use session_layer::cache::LEASE;
use tokio::time::sleep;

use crate::ports::{Cache, HOUR, Store};

const TTL: Duration = Duration::from_secs(100);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn each_minute_something_old_leaves_the_store_also_after_an_error() {
    let store = Store::new();
    let sessions = Sessions::builder(Cache::default(), store.clone())
        .ttl(TTL)
        .retention(Some(HOUR))
        .build();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(store.cleaned(), []);
    // The first round fails, half by half.
    sleep(MINUTE).await;
    let round = [("purge", (TTL + LEASE) * 2), ("sweep", HOUR)];
    assert_eq!(store.cleaned(), round);
    let errors = sessions.recent_errors().join("\n");
    for what in ["purging the journal", "sweeping ended sessions"] {
        assert!(errors.contains(what), "{errors}");
    }
    sleep(MINUTE).await;
    assert_eq!(store.cleaned(), [round, round].concat());
}
