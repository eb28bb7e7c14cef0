//! The options of the layer.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, LOCATION, ORIGIN};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use session_layer::{Rejection, SessionCacheService, SessionCookie, TokenSource};
use tower::{Layer as _, ServiceExt as _};

use super::stub::{Stub, answer, get, outcome, preflight};

fn stub() -> Stub {
    Stub::new().active(0, "alice").active(2, "bob")
}

#[tokio::test]
async fn optional_layer_passes_invalid_tokens() {
    for (field, user) in [
        ("session={0}", "alice"),
        ("session={1}", "anonymous"),
        ("session=garbage", "anonymous"),
        ("session={0}; session={2}", "anonymous"),
        ("", "anonymous"),
    ] {
        let reached = outcome(stub().layer().optional(), get(&[(COOKIE, field)])).await;
        assert_eq!(reached, (200, user.to_owned()), "{field}");
    }
}

#[tokio::test]
async fn skipped_requests_pass_without_a_look_up() {
    let stub = stub();
    let layer = stub.layer().skip(|parts| parts.uri.path() == "/public");
    for fields in [
        vec![],
        vec![(COOKIE, "session={0}")],
        vec![(AUTHORIZATION, "Bearer x"), (AUTHORIZATION, "Bearer y")],
    ] {
        let mut request = get(&fields);
        *request.uri_mut() = "/public".parse().unwrap();
        let response = answer(layer.clone(), request).await;
        assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "anonymous"));
        assert!(response.headers().is_empty(), "the response is unchanged: {response:?}");
    }
    assert_eq!(stub.asked(), 0);
    assert_eq!(outcome(layer, get(&[])).await.0, 401);
}

#[tokio::test]
async fn preflight_is_answered_by_the_layer() {
    let stub = stub();
    let response = answer(stub.layer(), preflight()).await;
    assert_eq!(response.status(), 204);
    assert!(response.headers().is_empty() && response.body().is_empty());

    for spoil in [
        |r: &mut Request<_>| *r.method_mut() = Method::GET,
        |r: &mut Request<_>| drop(r.headers_mut().remove(ORIGIN)),
        |r: &mut Request<_>| drop(r.headers_mut().remove(ACCESS_CONTROL_REQUEST_METHOD)),
    ] {
        let mut no_preflight = preflight();
        spoil(&mut no_preflight);
        assert_eq!(outcome(stub.layer(), no_preflight).await.0, 401);
    }
    assert_eq!(stub.asked(), 0);
}

#[tokio::test]
async fn preflight_reaches_an_inner_service_that_is_open_to_it() {
    let unguarded = stub().layer().danger_pass_preflights_unguarded(true);
    let response = answer(unguarded, preflight()).await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "anonymous"));
    assert!(response.headers().is_empty());

    let optional = stub().layer().optional();
    let reached = outcome(optional.clone(), preflight()).await;
    assert_eq!(reached, (200, "anonymous".to_owned()));
    // Under an optional layer, a preflight is an ordinary request.
    let mut with_a_cookie = preflight();
    let cookie = get(&[(COOKIE, "session={0}")]).headers()[COOKIE].clone();
    with_a_cookie.headers_mut().insert(COOKIE, cookie);
    assert_eq!(outcome(optional, with_a_cookie).await, (200, "alice".to_owned()));
}

// The service routes by path and ignores the method, as tonic's do.
#[tokio::test]
async fn unauthenticated_method_does_not_reach_path_router() {
    let methods = [
        "OPTIONS", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PRI",
        "PROPFIND", "options", "Options",
    ];
    let versions =
        [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3];
    let fields = [
        ("origin", "https://elsewhere.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
        ("access-control-request-private-network", "true"),
        ("x-http-method-override", "OPTIONS"),
        ("content-type", "application/grpc"),
        ("authorization", "Basic dTpw"),
        ("cookie", "session=x"),
    ];
    let stub = stub();
    let calls = Arc::new(AtomicUsize::new(0));
    let deletes = || {
        let calls = Arc::clone(&calls);
        tower::service_fn(move |request: Request<Full<Bytes>>| {
            assert_eq!(request.uri().path(), "/admin.v1.Admin/DeleteAll");
            calls.fetch_add(1, Ordering::SeqCst);
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        })
    };
    let service = stub.layer().layer(deletes());
    for method in methods {
        for version in versions {
            for chosen in 0..1 << fields.len() {
                let mut request = Request::builder()
                    .method(method)
                    .version(version)
                    .uri("http://example.com/admin.v1.Admin/DeleteAll");
                for (at, (name, value)) in fields.iter().enumerate() {
                    if chosen & (1 << at) != 0 {
                        request = request.header(*name, *value);
                    }
                }
                let request = request.body(Full::from("all")).unwrap();
                let response = service.clone().oneshot(request).await.unwrap();
                let is_preflight = method == "OPTIONS" && chosen & 0b11 == 0b11;
                let expected = if is_preflight { 204 } else { 401 };
                assert_eq!(response.status(), expected, "{method} {version:?} {chosen:b}");
            }
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(stub.asked(), 0);

    let mut request = preflight();
    *request.uri_mut() = "/admin.v1.Admin/DeleteAll".parse().unwrap();
    let unguarded = stub.layer().danger_pass_preflights_unguarded(true);
    let response = unguarded.layer(deletes()).oneshot(request).await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the inner service executes any method");
}

fn named(name: &'static str) -> SessionCookie {
    SessionCookie::builder(name).build().unwrap()
}

#[tokio::test]
async fn sources_are_read_in_order() {
    let both = || get(&[(AUTHORIZATION, "Bearer {0}"), (COOKIE, "id={2}; session={2}")]);
    let other = |name| TokenSource::OtherCookie(named(name));
    for (sources, user) in [
        (vec![TokenSource::Bearer, other("id")], "alice"),
        (vec![other("id"), TokenSource::Bearer], "bob"),
        (vec![TokenSource::Cookie, TokenSource::Bearer], "bob"),
        (vec![other("id")], "bob"),
        (vec![other("none"), TokenSource::Bearer], "alice"),
    ] {
        let layer = stub().layer().sources(sources);
        assert_eq!(outcome(layer, both()).await, (200, user.to_owned()));
    }
    assert_eq!(outcome(stub().layer().sources([]), both()).await.0, 401);
}

#[tokio::test]
async fn configured_cookie_replaces_the_cookie_sources() {
    let cookie = SessionCookie::host_prefixed();
    let layer = stub().layer().cookie(&cookie);
    for (field, status) in [("__Host-session={0}", 200), ("session={0}", 401)] {
        assert_eq!(outcome(layer.clone(), get(&[(COOKIE, field)])).await.0, status);
    }
    let both = get(&[(AUTHORIZATION, "Bearer {0}"), (COOKIE, "__Host-session={2}")]);
    assert_eq!(outcome(layer, both).await.1, "alice");
}

#[tokio::test]
async fn cookie_and_sources_are_set_in_any_order() {
    let cookie = named("id");
    for (sources, status) in [
        (vec![TokenSource::Bearer], 401),
        (vec![TokenSource::Cookie], 200),
        (vec![TokenSource::OtherCookie(named("a")), TokenSource::Cookie], 200),
    ] {
        let first = stub().layer().cookie(&cookie).sources(sources.clone());
        let last = stub().layer().sources(sources).cookie(&cookie);
        for layer in [first, last] {
            assert_eq!(outcome(layer, get(&[(COOKIE, "id={0}")])).await.0, status);
        }
    }
}

#[tokio::test]
async fn service_holds_its_inner_service() {
    let sessions = stub().sessions();
    let mut service = SessionCacheService::new(1, sessions);
    *service.get_mut() += 1;
    assert_eq!(*service.get_ref(), 2);
    assert_eq!(service.into_inner(), 2);
    let open = tower::service_fn(|_: Request<Full<Bytes>>| {
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let guarded = SessionCacheService::new(open, stub().sessions());
    let response = guarded.oneshot(get(&[])).await.unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn on_reject_replaces_the_response() {
    let layer = |stub: &Stub| {
        stub.layer().on_reject(|parts, rejection| match rejection {
            Rejection::Unauthorized { .. } => Response::builder()
                .status(StatusCode::SEE_OTHER)
                .header(LOCATION, format!("/login?to={}", parts.uri.path()))
                .body(Bytes::from_static(b"this way"))
                .unwrap(),
            other => other.response(),
        })
    };
    for (fields, token_sent) in [(vec![], false), (vec![(COOKIE, "session={1}")], true)] {
        let mut request = get(&fields);
        *request.uri_mut() = "/me".parse().unwrap();
        let response = answer(layer(&stub()), request).await;
        assert_eq!(response.status(), 303);
        assert_eq!(response.headers()[LOCATION], "/login?to=/me");
        assert_eq!(response.headers()["cache-control"], "private");
        let rejection = Rejection::Unauthorized { token_sent };
        assert_eq!(response.extensions().get(), Some(&rejection));
        assert_eq!(response.body(), "this way");
    }
    let outage = answer(layer(&stub().store_down(true)), get(&[(COOKIE, "session={0}")])).await;
    assert_eq!(outage.status(), 503);
}

#[tokio::test]
async fn changing_a_clone_keeps_the_original_layer() {
    let required = stub().layer();
    let optional = required.clone().optional();
    assert_eq!(outcome(required, get(&[])).await.0, 401);
    assert_eq!(outcome(optional, get(&[])).await.0, 200);
}
