//! The headers and extensions that the layer adds to responses.

use std::convert::Infallible;
use std::time::Duration;

use http::header::{CACHE_CONTROL, COOKIE, VARY};
use http::{Request, Response};
use session_layer::{LookupInfo, SessionCacheLayer, Source};
use tower::{Layer as _, ServiceExt as _};

use super::stub::{Stub, answer, echo_user, get, outcome, preflight};

fn stub() -> Stub {
    Stub::new().active(0, "alice")
}

#[tokio::test]
async fn guarded_responses_are_private_and_vary() {
    let outage = stub().store_down(true);
    for (layer, field) in [
        (stub().layer(), "session={0}"),
        (stub().layer(), ""),
        (stub().layer().optional(), ""),
        (outage.layer(), "session={0}"),
    ] {
        let response = answer(layer, get(&[(COOKIE, field)])).await;
        assert_eq!(response.headers()[VARY], "Authorization, Cookie");
        assert_eq!(response.headers()[CACHE_CONTROL], "private");
    }
    for (layer, request) in [
        (stub().layer().cache_headers(false), get(&[(COOKIE, "session={0}")])),
        (stub().layer().skip(|_| true), get(&[])),
        (stub().layer(), preflight()),
    ] {
        let response = answer(layer, request).await;
        assert!(response.headers().is_empty(), "{response:?}");
    }
}

#[tokio::test]
async fn headers_of_the_application_are_kept() {
    let inner = tower::service_fn(|_: Request<_>| async {
        let response = Response::builder()
            .header(CACHE_CONTROL, "public, max-age=60")
            .header(VARY, "Accept-Encoding, cookie")
            .header("server-timing", "db;dur=5");
        Ok::<_, Infallible>(response.body(String::new()).unwrap())
    });
    let service = stub().layer().server_timing(true).layer(inner);
    let response = service.oneshot(get(&[(COOKIE, "session={0}")])).await.unwrap();
    let all = |name: &str| -> Vec<_> {
        let fields = response.headers().get_all(name);
        fields.iter().map(|field| field.to_str().unwrap()).collect()
    };
    assert_eq!(all("cache-control"), ["public, max-age=60"]);
    assert_eq!(all("vary"), ["Accept-Encoding, cookie", "Authorization"]);
    let timing = all("server-timing");
    assert_eq!(timing.len(), 2);
    assert!(timing[0] == "db;dur=5" && timing[1].starts_with("session;desc=\"store\";dur="));
}

/// Returns the entry's description after checking its form.
fn timing(response: &Response<String>) -> Option<&str> {
    let value = response.headers().get("server-timing")?.to_str().unwrap();
    let rest = value.strip_prefix("session;desc=\"").unwrap();
    let (description, millis) = rest.split_once("\";dur=").unwrap();
    assert_eq!(millis.split_once('.').unwrap().1.len(), 2, "{millis}");
    assert!(millis.parse::<f64>().unwrap() >= 0.0);
    Some(description)
}

#[tokio::test]
async fn server_timing_is_sent_if_a_token_was_looked_up() {
    let stub = stub();
    let layer = stub.layer().server_timing(true);
    for (field, status, expected) in [
        ("session={0}", 200, Some("store")),
        ("session={1}", 401, Some("store")),
        ("session=garbage", 401, None),
        ("", 401, None),
    ] {
        let response = answer(layer.clone(), get(&[(COOKIE, field)])).await;
        assert_eq!((response.status().as_u16(), timing(&response)), (status, expected));
    }
    let hit = async || {
        let response = answer(layer.clone(), get(&[(COOKIE, "session={0}")])).await;
        timing(&response) == Some("hit")
    };
    // The fill follows in the background after the response.
    while !hit().await {
        tokio::task::yield_now().await;
    }
    let malformed = get(&[(http::header::AUTHORIZATION, "Bearer x")]);
    assert_eq!(timing(&answer(layer.clone(), malformed).await), None);
    let _ = stub.store_down(true);
    let response = answer(layer, get(&[(COOKIE, "session={1}")])).await;
    assert_eq!((response.status().as_u16(), timing(&response)), (503, Some("unavailable")));

    let off = Stub::new().active(0, "alice").layer();
    assert_eq!(timing(&answer(off, get(&[(COOKIE, "session={0}")])).await), None);
}

#[tokio::test]
async fn extensions_name_the_source_of_the_verdict() {
    let info_of = async |layer: SessionCacheLayer, field: &str| {
        let response = answer(layer.lookup_info(true), get(&[(COOKIE, field)])).await;
        response.extensions().get::<LookupInfo>().copied()
    };
    let healthy = info_of(stub().layer(), "session={0}").await.unwrap();
    assert_eq!((healthy.source, healthy.degraded), (Source::Store, false));
    assert!(healthy.elapsed < Duration::from_secs(5));
    let degraded = info_of(stub().cache_down().layer(), "session={1}").await.unwrap();
    assert_eq!((degraded.source, degraded.degraded), (Source::Store, true));
    let outage = info_of(stub().store_down(true).layer(), "session={0}").await.unwrap();
    assert_eq!(outage.source, Source::None);
    assert_eq!(info_of(stub().layer(), "").await, None);
}

#[tokio::test]
async fn nested_layers_follow_the_inner_one() {
    let nested = async |outer: SessionCacheLayer, inner: SessionCacheLayer, field: &str| {
        let service = outer.layer(inner.layer(tower::service_fn(echo_user::<String>)));
        let request = get(&[(COOKIE, field)]).map(|_| String::new());
        let response = service.oneshot(request).await.unwrap();
        let one_vary = response.headers().get_all(VARY).iter().count() <= 1;
        assert!(one_vary, "{response:?}");
        response.status().as_u16()
    };
    let (required, optional) = (|| stub().layer(), || stub().layer().optional());
    assert_eq!(nested(optional(), required(), "").await, 401);
    assert_eq!(nested(optional(), required(), "session={0}").await, 200);
    assert_eq!(nested(stub().layer().skip(|_| true), required(), "").await, 401);
    // A request that the outer layer rejects does not reach the inner one.
    assert_eq!(nested(required(), optional(), "").await, 401);

    // The inner one does not take the outer one's word: it reads another cookie.
    let other = session_layer::SessionCookie::builder("other").build().unwrap();
    let inner = stub().layer().optional().cookie(&other);
    assert_eq!(outcome(inner.clone(), get(&[(COOKIE, "session={0}")])).await.1, "anonymous");
    let service =
        required().layer(inner.layer(tower::service_fn(echo_user::<http_body_util::Full<_>>)));
    let response = service.oneshot(get(&[(COOKIE, "session={0}")])).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    assert_eq!(body.to_bytes(), "anonymous");
}
