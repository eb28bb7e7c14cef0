//! The reader of the journal, over a store of the application's own.

use std::time::Duration;

use session_layer::Sessions;
use tokio::time::sleep;

use crate::ports::{Cache, Store};

/// Else the node would go on believing its copies for ever, and nobody would be told.
#[tokio::test(start_paused = true)]
async fn a_read_that_panics_is_said_and_tried_again() {
    let store = Store::new();
    store.shared();
    let sessions = Sessions::builder(Cache::default(), store)
        .journal_interval(Duration::from_millis(500))
        .build();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(sessions.metrics().journal_reads, 0);
    let errors = sessions.recent_errors().join("\n");
    assert!(errors.contains("it panicked"), "{errors}");
    assert!(errors.contains("(reading the journal; "), "{errors}");
    sleep(Duration::from_millis(1_000)).await;
    assert_eq!(sessions.metrics().journal_reads, 2);
}
