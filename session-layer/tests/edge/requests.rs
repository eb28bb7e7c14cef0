//! CONTRACT's table of requests, row by row.

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use session_layer::{Rejection, TokenDigest, Validation};

use crate::stub::{Stub, answer, get, outcome, preflight, token};

const BEARER: HeaderName = AUTHORIZATION;

/// Tokens: 0 and 1 are alice's, 2 is bob's, 3 was revoked, 4 and up are unknown.
fn stub() -> Stub {
    Stub::new()
        .alive(0, "alice")
        .alive(1, "alice")
        .alive(2, "bob")
        .revoked(3)
}

#[tokio::test]
async fn who_gets_in() {
    for (fields, status, user) in [
        (vec![(BEARER, "Bearer {0}")], 200, "alice"),
        (vec![(BEARER, "bEARER  {0}")], 200, "alice"),
        (vec![(COOKIE, "session={0}")], 200, "alice"),
        (vec![(COOKIE, "a=b; session=\"{0}\"; c")], 200, "alice"),
        (vec![], 401, ""),
        (vec![(BEARER, "Bearer {3}")], 401, ""),
        (vec![(BEARER, "Bearer {4}")], 401, ""),
        (vec![(COOKIE, "session={3}")], 401, ""),
        (vec![(COOKIE, "session={4}")], 401, ""),
        (vec![(COOKIE, "session=garbage")], 401, ""),
        (vec![(COOKIE, "other={0}")], 401, ""),
        // several cookies of the name
        (vec![(COOKIE, "session={4}; session={0}")], 200, "alice"),
        (
            vec![(COOKIE, "session={3}"), (COOKIE, "session={0}")],
            200,
            "alice",
        ),
        (vec![(COOKIE, "session=x; session={0}")], 200, "alice"),
        (vec![(COOKIE, "session={0}; session={1}")], 200, "alice"),
        (vec![(COOKIE, "session={0}; session={2}")], 401, ""),
        (
            vec![(COOKIE, "session={4}; session={5}; session={6}; session={0}")],
            200,
            "alice",
        ),
        (
            vec![(
                COOKIE,
                "session={4}; session={5}; session={6}; session={7}; session={0}",
            )],
            401,
            "",
        ),
        // a Bearer token decides alone
        (
            vec![(BEARER, "Bearer {2}"), (COOKIE, "session={0}")],
            200,
            "bob",
        ),
        (
            vec![(BEARER, "Bearer {4}"), (COOKIE, "session={0}")],
            401,
            "",
        ),
        // another scheme is ignored
        (
            vec![(BEARER, "Basic dTpw"), (COOKIE, "session={0}")],
            200,
            "alice",
        ),
        (
            vec![(BEARER, "DIGEST {2}"), (COOKIE, "session={0}")],
            200,
            "alice",
        ),
        (vec![(BEARER, "Basic dTpw")], 401, ""),
        (
            vec![(BEARER, "Basic dTpw"), (BEARER, "Bearer {0}")],
            200,
            "alice",
        ),
    ] {
        let reached = outcome(stub().layer(), get(&fields)).await;
        assert_eq!(reached, (status, user.to_owned()), "{fields:?}");
    }
}

#[tokio::test]
async fn a_malformed_bearer_is_400_and_no_store_is_asked() {
    let long = format!("Bearer {}", "A".repeat(4097));
    for fields in [
        vec![(BEARER, "Bearer {0}"), (BEARER, "Bearer {0}")],
        vec![(BEARER, "Bearer {0}"), (BEARER, "bearer x")],
        vec![(BEARER, "Bearer")],
        vec![(BEARER, "Bearer {0}x"), (COOKIE, "session={0}")],
        vec![(BEARER, "Bearer \u{e4}")],
        vec![(BEARER, long.as_str())],
    ] {
        for optional in [false, true] {
            let stub = stub();
            let layer = if optional {
                stub.layer().optional()
            } else {
                stub.layer()
            };
            let response = answer(layer, get(&fields)).await;
            assert_eq!(response.status(), 400, "{fields:?}");
            assert_eq!(response.extensions().get(), Some(&Rejection::BadRequest));
            assert_eq!(stub.asked(), 0);
        }
    }
}

#[tokio::test]
async fn every_401_is_the_same() {
    let mut seen = Vec::new();
    for fields in [
        vec![],
        vec![(BEARER, "Bearer {3}")],
        vec![(BEARER, "Bearer {4}")],
        vec![(COOKIE, "session=garbage")],
        vec![(COOKIE, "session={0}; session={2}")],
    ] {
        let response = answer(stub().layer(), get(&fields)).await;
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        seen.push((format!("{:?}", response.headers()), response.into_body()));
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].0.contains("application/problem+json"));
}

#[tokio::test]
async fn an_outage_is_503_and_never_401() {
    for optional in [false, true] {
        for stub in [
            stub().store_down(true),
            stub().store_hangs(),
            stub().store_down(true).cache_down(),
        ] {
            for fields in [
                [(COOKIE, "session={0}")],
                [(COOKIE, "session={3}; session={0}")],
                [(BEARER, "Bearer {4}")],
            ] {
                let layer = if optional {
                    stub.layer().optional()
                } else {
                    stub.layer()
                };
                let response = answer(layer, get(&fields)).await;
                assert_eq!(response.status(), 503);
                assert_eq!(response.headers()[RETRY_AFTER], "1");
                assert!(
                    !response.headers().contains_key(SET_COOKIE),
                    "the cookie stays"
                );
                assert_eq!(response.extensions().get(), Some(&Rejection::Unavailable));
            }
        }
        // Without a token there is nothing that an outage could be about.
        let stub = stub().store_down(true);
        let layer = if optional {
            stub.layer().optional()
        } else {
            stub.layer()
        };
        let expected = if optional { (200, "nobody") } else { (401, "") };
        let (status, user) = outcome(layer, get(&[])).await;
        assert_eq!((status, user.as_str()), expected);
    }
}

#[tokio::test]
async fn a_dead_cache_changes_no_answer() {
    for (field, expected) in [("session={0}", (200, "alice")), ("session={3}", (401, ""))] {
        let (status, user) = outcome(stub().cache_down().layer(), get(&[(COOKIE, field)])).await;
        assert_eq!((status, user.as_str()), expected);
    }
}

#[tokio::test]
async fn one_valid_in_the_cache_counts_where_nobody_knows_of_the_other() {
    let stub = stub().cached(0, "alice");
    let layer = stub.layer();
    // Nothing is served from a cache before the store said once which one it is.
    assert_eq!(
        outcome(layer.clone(), get(&[(COOKIE, "session={4}")]))
            .await
            .0,
        401
    );
    let stub = stub.store_down(true);
    let both = get(&[(COOKIE, "session={4}; session={0}")]);
    assert_eq!(outcome(layer, both).await, (200, "alice".to_owned()));
    assert_eq!(stub.loads(), 2);
}

#[tokio::test]
async fn several_cookies_are_one_look_up() {
    let stub = stub();
    let fields = [
        (COOKIE, "session={4}; session={5}"),
        (COOKIE, "session=x; session={0}"),
    ];
    assert_eq!(outcome(stub.layer(), get(&fields)).await.0, 200);
    let expected = [4, 5, 0].map(|n| TokenDigest::of(&token(n)));
    assert_eq!(stub.look_ups(), [expected]);
    assert_eq!(stub.loads(), 1);
}

#[tokio::test]
async fn nobody_else_hands_in_a_session() {
    let stub = stub();
    let Validation::Valid(session) = stub.sessions().validate(&token(0)).await else {
        panic!("token 0 is alive");
    };
    for (layer, expected) in [
        (stub.layer(), (401, "")),
        (stub.layer().optional(), (200, "nobody")),
        (stub.layer().skip(|_| true), (200, "nobody")),
    ] {
        let mut request = get(&[]);
        request.extensions_mut().insert(session.clone());
        let (status, user) = outcome(layer.clone(), request).await;
        assert_eq!((status, user.as_str()), expected, "{layer:?}");
    }
    let mut preflight = preflight();
    preflight.extensions_mut().insert(session);
    let (status, user) = outcome(stub.layer(), preflight).await;
    assert_eq!((status, user.as_str()), (200, "nobody"));
}
