//! A flood of tokens that never existed.

use std::time::Duration;

use session_layer::{SessionToken, Validation};

use crate::stub::Stub;

/// What a node keeps of them for a cache that is down is bounded.
#[tokio::test]
async fn while_the_cache_is_down_it_does_not_fill_the_memory() {
    let sessions = Stub::new().cache_down().sessions();
    for _ in 0..10_200 {
        let token = SessionToken::generate().unwrap();
        // On a busy machine one of them may exceed its budget; what is kept of it is the same.
        let answer = sessions.validate(token.reveal()).await;
        assert!(!matches!(answer, Validation::Valid(_)), "{answer:?}");
    }
    sessions.shutdown(Duration::from_secs(30)).await.unwrap();
    assert_eq!(sessions.metrics().unacknowledged, 10_000);
}
