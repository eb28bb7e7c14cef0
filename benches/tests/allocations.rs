//! How often a validation allocates. The counts are exact, so a change that adds one fails here.

use std::alloc::System;
use std::convert::Infallible;

use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use session_benches::Service;
use session_layer::{SessionCacheLayer, Sessions};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer as _, Service as _, service_fn};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests that are in flight at once.
const CALLERS: usize = 64;
const ROUNDS: usize = 50;

/// Returns the mean number of allocations of a request, those of the request itself included.
async fn allocations(sessions: &Sessions, token: &str) -> f64 {
    let layer = SessionCacheLayer::new(sessions.clone());
    let inner = |_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(())));
    let service = layer.layer(service_fn(inner));
    let header = HeaderValue::try_from(format!("Bearer {token}")).expect("a token is a header");
    let request = || {
        let (mut service, header) = (service.clone(), header.clone());
        async move {
            let mut request = Request::new(());
            request.headers_mut().insert(AUTHORIZATION, header);
            service.call(request).await.is_ok_and(|response| response.status().is_success())
        }
    };
    let round = || async { join_all((0..CALLERS).map(|_| request())).await };
    // The buffers of the client grow once.
    round().await;
    let hits = sessions.metrics().hits;
    let region = Region::new(ALLOCATOR);
    for _ in 0..ROUNDS {
        assert!(round().await.into_iter().all(|valid| valid));
    }
    let allocations = region.change().allocations;
    assert_eq!(sessions.metrics().hits - hits, (CALLERS * ROUNDS) as u64);
    allocations as f64 / (CALLERS * ROUNDS) as f64
}

#[tokio::test]
async fn a_hit_allocates_little() {
    let service = Service::start().await.expect("the servers start");
    let plain = allocations(&service.sessions, service.warm.token.reveal()).await;
    let sealed = allocations(&service.sealed, service.warm_sealed.token.reveal()).await;
    println!("{plain:.2} allocations per hit, {sealed:.2} sealed");
    // A batch of 64 has 20 of its own. The request and this test have 3, the extensions 4, the
    // response's header fields 2, the session 3, and the look-up 6.
    assert!(plain < 18.5, "{plain}");
    // One more: the decrypted body.
    assert!(sealed < 19.5, "{sealed}");
}
