//! The health service over stubs. `src/health/report.rs` tests the document's content.

use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;
use session_layer::health::HealthStatus;
use session_layer::{CacheMode, HealthService};
use tower::ServiceExt as _;

use super::stub::Stub;
use crate::ports::token;

async fn ask(service: HealthService, method: Method) -> Response<Value> {
    // The service accepts any body.
    let request = Request::builder().method(method).body("no body at all").unwrap();
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(parts.headers[CACHE_CONTROL], "no-store");
    Response::from_parts(parts, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn document_is_served_as_json() {
    let response = ask(HealthService::report(Stub::new().sessions()), Method::GET).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let document = response.body();
    assert_eq!(document["status"], "healthy");
    assert_eq!(document["redis"]["connected"], true);
    assert_eq!(document["performance"]["ping"], 0.2);
    assert_eq!(document["mode"], "on");

    let response =
        ask(HealthService::report(Stub::new().cache_down().sessions()), Method::GET).await;
    assert_eq!(response.status(), 503);
    let document = response.body();
    assert_eq!(document["status"], "unhealthy");
    assert_eq!(document["errors"][0], "session cache: the test makes this call fail");
    assert_eq!(document["sessionCache"]["pool"]["available"], 0);
}

#[tokio::test]
async fn bypass_with_the_cache_down_is_degraded() {
    let sessions = Stub::new().cache_down().sessions();
    sessions.set_mode(CacheMode::Bypass);
    let report = sessions.health().await;
    assert_eq!(report.status, HealthStatus::Degraded);
    assert_eq!(report.http_status(), 200);
    assert!(!report.session_cache.enabled);
}

#[tokio::test]
async fn document_counts_validations() {
    let stub = Stub::new().cached(0, "alice");
    let sessions = stub.sessions();
    for n in [0, 0] {
        sessions.validate(&token(n)).await;
    }
    let metrics = sessions.health().await.session_cache.metrics;
    assert_eq!(metrics.total, 2);
    assert_eq!(metrics.hits + metrics.misses, 2);
}

fn no_outage(stub: Stub) -> Stub {
    stub
}

#[tokio::test]
async fn ready_while_some_session_could_be_validated() {
    // In all cases but the last, the store has responded once before the outage.
    for (outage, mode, known, status) in [
        (no_outage as fn(Stub) -> Stub, CacheMode::On, true, 200),
        (|stub| stub.cache_down(), CacheMode::On, true, 200),
        (|stub| stub.store_down(true), CacheMode::On, true, 200),
        (|stub| stub.store_down(true).cache_down(), CacheMode::On, true, 503),
        (|stub| stub.store_down(true), CacheMode::Bypass, true, 503),
        (|stub| stub.probe_hangs(), CacheMode::On, true, 200),
        (|stub| stub.probe_hangs().cache_down(), CacheMode::On, true, 503),
        (|stub| stub.store_down(true), CacheMode::On, false, 503),
    ] {
        let stub = Stub::new().store_down(!known);
        let sessions = stub.sessions();
        let _ = sessions.validate(&token(0)).await;
        let _ = outage(stub);
        sessions.set_mode(mode);
        let response = ask(HealthService::readyz(sessions), Method::GET).await;
        assert_eq!(response.status(), status);
        if status == 503 {
            let reason = response.body()["detail"].as_str().unwrap();
            assert!(reason.contains("no session could be validated"), "{reason}");
        }
    }
}

#[tokio::test]
async fn livez_responds_without_a_query() {
    let response = ask(HealthService::livez(), Method::GET).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn concurrent_checks_share_one_probe() {
    let stub = Stub::new();
    let sessions = stub.sessions();
    let report = HealthService::report(sessions.clone());
    let ready = HealthService::readyz(sessions);
    let both = (0..40).map(|n| if n % 2 == 0 { report.clone() } else { ready.clone() });
    futures_util::future::join_all(both.map(|service| ask(service, Method::GET))).await;
    assert_eq!(stub.probes(), 1);
}

#[tokio::test(start_paused = true)]
async fn hanging_probe_ends_within_a_second() {
    // The last look-ups of requests found the cache slow, or unreachable.
    let slow = (Stub::new().probe_hangs(), 200, "degraded");
    let dead = (Stub::new().probe_hangs().cache_down(), 503, "unhealthy");
    for (stub, status, expected) in [slow, dead] {
        let begun = tokio::time::Instant::now();
        let response = ask(HealthService::report(stub.sessions()), Method::GET).await;
        assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(response.status(), status);
        assert_eq!(response.body()["status"], expected);
        for (n, who) in ["session cache: ", "session store: "].into_iter().enumerate() {
            let error = response.body()["errors"][n].as_str().unwrap();
            assert!(error.starts_with(who) && error.contains("had not ended"), "{error}");
        }
    }
}

#[tokio::test]
async fn other_methods_than_get_and_head_get_405() {
    for service in [
        HealthService::livez(),
        HealthService::report(Stub::new().sessions()),
        HealthService::readyz(Stub::new().sessions()),
    ] {
        assert_eq!(ask(service.clone(), Method::HEAD).await.status(), 200);
        for method in [Method::POST, Method::DELETE, Method::OPTIONS] {
            let response = ask(service.clone(), method).await;
            assert_eq!(response.status(), 405);
            assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        }
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn health_service_is_a_route_of_axum() {
    let app: axum::Router = axum::Router::new()
        .route_service("/livez", HealthService::livez())
        .route_service("/api/health/redis", HealthService::report(Stub::new().sessions()));
    for path in ["/livez", "/api/health/redis"] {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}
