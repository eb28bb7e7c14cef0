//! The reader of the journal, over a custom store.

use std::time::Duration;

use session_layer::Sessions;
use tokio::time::sleep;

use crate::ports::{Cache, How, Store};

// Otherwise the node would serve its entries forever, and no error would be reported.
#[tokio::test(start_paused = true)]
async fn panicking_read_is_reported_and_retried() {
    let store = Store::shared();
    store.port_calls().break_next("journal", How::Panics, 1);
    let sessions = Sessions::builder(Cache::default(), store)
        .journal_interval(Duration::from_millis(500))
        .build()
        .unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(sessions.metrics().journal_reads, 0);
    let errors = sessions.recent_errors().join("\n");
    assert!(errors.contains("it panicked"), "{errors}");
    assert!(errors.contains("(reading the journal; "), "{errors}");
    // At once, because this node has just been registered, and then every interval.
    sleep(Duration::from_millis(99)).await;
    assert_eq!(sessions.metrics().journal_reads, 1);
    sleep(Duration::from_millis(1_000)).await;
    assert_eq!(sessions.metrics().journal_reads, 3);
}
