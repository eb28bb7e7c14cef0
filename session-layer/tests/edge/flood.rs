//! A flood of tokens that never existed.

use std::time::Duration;

use session_layer::{SessionToken, Validation};

use super::stub::Stub;

// A node limits the pending invalidations that it keeps while the cache is down.
#[tokio::test]
async fn flood_with_cache_down_keeps_limited_invalidations() {
    let sessions = Stub::new().cache_down().sessions();
    for _ in 0..10_200 {
        let token = SessionToken::generate().unwrap();
        // On a busy machine, a token may exceed its budget. The kept invalidation is the same.
        let answer = sessions.validate(token.reveal()).await;
        assert!(!matches!(answer, Validation::Valid(_)), "{answer:?}");
    }
    sessions.shutdown(Duration::from_secs(30)).await.unwrap();
    assert_eq!(sessions.metrics().pending_invalidations, 10_000);
}
