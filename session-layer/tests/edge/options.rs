//! The layer's switches.

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, LOCATION, ORIGIN};
use http::{Method, Response, StatusCode};
use session_layer::{Rejection, SessionCookie, TokenSource};

use crate::stub::{Stub, answer, get, outcome, preflight};

fn stub() -> Stub {
    Stub::new().alive(0, "alice").alive(2, "bob")
}

#[tokio::test]
async fn optional_lets_strangers_pass() {
    for (field, user) in [
        ("session={0}", "alice"),
        ("session={1}", "nobody"),
        ("session=garbage", "nobody"),
        ("session={0}; session={2}", "nobody"),
        ("", "nobody"),
    ] {
        let reached = outcome(stub().layer().optional(), get(&[(COOKIE, field)])).await;
        assert_eq!(reached, (200, user.to_owned()), "{field}");
    }
}

#[tokio::test]
async fn skipped_requests_pass_and_nobody_is_asked() {
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
        assert_eq!(
            (response.status().as_u16(), response.body().as_str()),
            (200, "nobody")
        );
        assert!(response.headers().is_empty(), "left alone: {response:?}");
    }
    assert_eq!(stub.asked(), 0);
    assert_eq!(outcome(layer, get(&[])).await.0, 401);
}

#[tokio::test]
async fn preflights_pass_unless_told_otherwise() {
    let stub = stub();
    let response = answer(stub.layer(), preflight()).await;
    assert_eq!(
        (response.status().as_u16(), response.body().as_str()),
        (200, "nobody")
    );
    assert!(response.headers().is_empty());
    assert_eq!(
        outcome(stub.layer().preflight(false), preflight()).await.0,
        401
    );
    assert_eq!(stub.asked(), 0);

    for spoil in [
        |r: &mut http::Request<_>| *r.method_mut() = Method::GET,
        |r: &mut http::Request<_>| drop(r.headers_mut().remove(ORIGIN)),
        |r: &mut http::Request<_>| drop(r.headers_mut().remove(ACCESS_CONTROL_REQUEST_METHOD)),
    ] {
        let mut no_preflight = preflight();
        spoil(&mut no_preflight);
        assert_eq!(outcome(stub.layer(), no_preflight).await.0, 401);
    }
}

#[tokio::test]
async fn sources_and_their_order() {
    let both = || {
        get(&[
            (AUTHORIZATION, "Bearer {0}"),
            (COOKIE, "id={2}; session={2}"),
        ])
    };
    let cookie = || TokenSource::cookie("id");
    for (sources, user) in [
        (vec![TokenSource::Bearer, cookie()], "alice"),
        (vec![cookie(), TokenSource::Bearer], "bob"),
        (vec![cookie()], "bob"),
        (
            vec![TokenSource::cookie("none"), TokenSource::Bearer],
            "alice",
        ),
    ] {
        let layer = stub().layer().sources(sources);
        assert_eq!(outcome(layer, both()).await, (200, user.to_owned()));
    }
    assert_eq!(outcome(stub().layer().sources([]), both()).await.0, 401);
}

#[tokio::test]
async fn one_cookie_for_reading_and_issuing() {
    let cookie = SessionCookie::host_prefixed();
    let layer = stub().layer().cookie(&cookie);
    for (field, status) in [("__Host-session={0}", 200), ("session={0}", 401)] {
        assert_eq!(
            outcome(layer.clone(), get(&[(COOKIE, field)])).await.0,
            status
        );
    }
    // Bearer stays where it was: first.
    let both = get(&[
        (AUTHORIZATION, "Bearer {0}"),
        (COOKIE, "__Host-session={2}"),
    ]);
    assert_eq!(outcome(layer, both).await.1, "alice");

    let bearer_only = stub()
        .layer()
        .sources([TokenSource::Bearer])
        .cookie(&cookie);
    assert_eq!(
        outcome(bearer_only, get(&[(COOKIE, "__Host-session={0}")]))
            .await
            .0,
        200
    );
    let many = ["a", "b"].map(TokenSource::cookie);
    let replaced = stub().layer().sources(many).cookie(&cookie);
    assert_eq!(
        outcome(replaced, get(&[(COOKIE, "a={0}; b={0}")])).await.0,
        401
    );
}

#[tokio::test]
async fn on_reject_answers_what_it_likes() {
    let layer = |stub: &Stub| {
        stub.layer().on_reject(|parts, rejection| match rejection {
            Rejection::Unauthorized => Response::builder()
                .status(StatusCode::SEE_OTHER)
                .header(LOCATION, format!("/login?to={}", parts.uri.path()))
                .body(Bytes::from_static(b"this way"))
                .unwrap(),
            other => other.response(),
        })
    };
    for fields in [vec![], vec![(COOKIE, "session={1}")]] {
        let mut request = get(&fields);
        *request.uri_mut() = "/me".parse().unwrap();
        let response = answer(layer(&stub()), request).await;
        assert_eq!(response.status(), 303);
        assert_eq!(response.headers()[LOCATION], "/login?to=/me");
        assert_eq!(response.headers()["cache-control"], "private");
        assert_eq!(response.extensions().get(), Some(&Rejection::Unauthorized));
        assert_eq!(response.body(), "this way");
    }
    let outage = answer(
        layer(&stub().store_down(true)),
        get(&[(COOKIE, "session={0}")]),
    )
    .await;
    assert_eq!(outage.status(), 503);
}

#[tokio::test]
async fn the_first_configuration_is_not_changed_by_its_copies() {
    let required = stub().layer();
    let optional = required.clone().optional();
    assert_eq!(outcome(required, get(&[])).await.0, 401);
    assert_eq!(outcome(optional, get(&[])).await.0, 200);
}
