//! The table of requests in the docs of `SessionCacheLayer`, row by row.

use http::HeaderName;
use http::header::{
    AUTHORIZATION, CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use session_layer::{Rejection, TokenDigest, Validation};

use super::stub::{Stub, answer, get, outcome, preflight};
use crate::ports::token;

const BEARER: HeaderName = AUTHORIZATION;

/// Creates a stub. Tokens 0 and 1 are alice's, 2 is bob's, 3 was revoked, 4 and up are unknown.
fn stub() -> Stub {
    Stub::new().active(0, "alice").active(1, "alice").active(2, "bob").revoked(3)
}

#[tokio::test]
async fn only_valid_unambiguous_tokens_pass() {
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
        // Several cookies of the name.
        (vec![(COOKIE, "session={4}; session={0}")], 200, "alice"),
        (vec![(COOKIE, "session={3}"), (COOKIE, "session={0}")], 200, "alice"),
        (vec![(COOKIE, "session=x; session={0}")], 200, "alice"),
        (vec![(COOKIE, "session={0}; session={1}")], 200, "alice"),
        (vec![(COOKIE, "session={0}; session={2}")], 401, ""),
        (vec![(COOKIE, "session={4}; session={5}; session={6}; session={0}")], 200, "alice"),
        (
            vec![(COOKIE, "session={4}; session={5}; session={6}; session={7}; session={0}")],
            401,
            "",
        ),
        // Planted by a sibling domain: bob's valid token, and malformed ones ahead of alice's.
        (vec![(COOKIE, "session={2}; session=x; session=x; session={0}")], 401, ""),
        (
            vec![(COOKIE, "session={2}; session={4}; session={5}; session={6}; session={0}")],
            401,
            "",
        ),
        (vec![(COOKIE, "session={2}; session=x; session=; session=\"; session={0}")], 401, ""),
        (
            vec![(COOKIE, "session={2}; session={2}; session={2}; session={2}; session={0}")],
            401,
            "",
        ),
        // A Bearer token decides alone.
        (vec![(BEARER, "Bearer {2}"), (COOKIE, "session={0}")], 200, "bob"),
        (vec![(BEARER, "Bearer {4}"), (COOKIE, "session={0}")], 401, ""),
        // Another scheme is ignored.
        (vec![(BEARER, "Basic dTpw"), (COOKIE, "session={0}")], 200, "alice"),
        (vec![(BEARER, "DIGEST {2}"), (COOKIE, "session={0}")], 200, "alice"),
        (vec![(BEARER, "Basic dTpw")], 401, ""),
        (vec![(BEARER, "Basic dTpw"), (BEARER, "Bearer {0}")], 200, "alice"),
    ] {
        let reached = outcome(stub().layer(), get(&fields)).await;
        assert_eq!(reached, (status, user.to_owned()), "{fields:?}");
    }
}

#[tokio::test]
async fn malformed_bearer_is_400_without_a_look_up() {
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
            let layer = if optional { stub.layer().optional() } else { stub.layer() };
            let response = answer(layer, get(&fields)).await;
            assert_eq!(response.status(), 400, "{fields:?}");
            assert_eq!(response.extensions().get(), Some(&Rejection::BadRequest));
            assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
            assert_eq!(stub.asked(), 0);
        }
    }
}

#[tokio::test]
async fn too_many_cookies_are_not_looked_up() {
    let stub = stub();
    let five = || get(&[(COOKIE, "session={0}; session=x; session=x; session=x; session=x")]);
    assert_eq!(outcome(stub.layer(), five()).await, (401, String::new()));
    let optional = outcome(stub.layer().optional(), five()).await;
    assert_eq!(optional, (200, "anonymous".to_owned()));
    assert_eq!(stub.asked(), 0);
}

#[tokio::test]
async fn responses_401_differ_only_in_whether_a_token_was_sent() {
    let unknown_cookies = "session={4}; session={5}; session={6}; session={7}";
    let too_many = "session={0}; session=; session=; session=; session=";
    let mut bodies = Vec::new();
    for (token_sent, challenge, requests) in [
        (
            false,
            "Bearer",
            vec![
                vec![],
                vec![(COOKIE, "other={0}; session; Session={0}")],
                vec![(COOKIE, "")],
                vec![(BEARER, "Basic dTpw")],
                vec![(BEARER, "Bearer{0}"), (COOKIE, "xsession={0}")],
            ],
        ),
        (
            true,
            "Bearer error=\"invalid_token\"",
            vec![
                vec![(BEARER, "Bearer {3}")],
                vec![(BEARER, "Bearer {4}")],
                vec![(BEARER, "Basic dTpw"), (BEARER, "bearer {4}")],
                vec![(BEARER, "Bearer {4}"), (COOKIE, "session={0}")],
                vec![(BEARER, "Basic dTpw"), (COOKIE, "session=x")],
                vec![(COOKIE, "session={3}")],
                vec![(COOKIE, "session={4}")],
                vec![(COOKIE, "session=garbage")],
                vec![(COOKIE, "session=")],
                vec![(COOKIE, "session=garbage; session={3}")],
                vec![(COOKIE, "session={0}; session={2}")],
                vec![(COOKIE, unknown_cookies)],
                vec![(COOKIE, too_many)],
            ],
        ),
    ] {
        let rejection = Rejection::Unauthorized { token_sent };
        let mut seen = Vec::new();
        for fields in requests {
            let response = answer(stub().layer(), get(&fields)).await;
            assert_eq!(response.status(), 401, "{fields:?}");
            assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge, "{fields:?}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.extensions().get(), Some(&rejection), "{fields:?}");
            seen.push(format!("{:?}", response.headers()));
            bodies.push(response.into_body());
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[tokio::test]
async fn outage_is_503_and_never_401() {
    for optional in [false, true] {
        for stub in
            [stub().store_down(true), stub().store_hangs(), stub().store_down(true).cache_down()]
        {
            for fields in [
                [(COOKIE, "session={0}")],
                [(COOKIE, "session={3}; session={0}")],
                [(BEARER, "Bearer {4}")],
            ] {
                let layer = if optional { stub.layer().optional() } else { stub.layer() };
                let response = answer(layer, get(&fields)).await;
                assert_eq!(response.status(), 503);
                assert_eq!(response.headers()[RETRY_AFTER], "1");
                assert!(!response.headers().contains_key(SET_COOKIE), "no cookie is cleared");
                assert_eq!(response.extensions().get(), Some(&Rejection::Unavailable));
            }
        }
        // Without a token, an outage does not matter.
        let stub = stub().store_down(true);
        let layer = if optional { stub.layer().optional() } else { stub.layer() };
        let expected = if optional { (200, "anonymous") } else { (401, "") };
        let (status, user) = outcome(layer, get(&[])).await;
        assert_eq!((status, user.as_str()), expected);
    }
}

#[tokio::test]
async fn unreachable_cache_changes_no_response() {
    for (field, expected) in [("session={0}", (200, "alice")), ("session={3}", (401, ""))] {
        let (status, user) = outcome(stub().cache_down().layer(), get(&[(COOKIE, field)])).await;
        assert_eq!((status, user.as_str()), expected);
    }
}

#[tokio::test]
async fn cached_session_passes_if_another_token_is_unknown() {
    let stub = stub().cached(0, "alice");
    let layer = stub.layer();
    // No entry is served before the first reply from the store.
    assert_eq!(outcome(layer.clone(), get(&[(COOKIE, "session={4}")])).await.0, 401);
    let stub = stub.store_down(true);
    let both = get(&[(COOKIE, "session={4}; session={0}")]);
    assert_eq!(outcome(layer, both).await, (200, "alice".to_owned()));
    assert_eq!(stub.loads(), 2);
}

#[tokio::test]
async fn several_cookies_cost_one_look_up() {
    let stub = stub();
    let fields = [(COOKIE, "session={4}; session={5}"), (COOKIE, "session=x; session={0}")];
    assert_eq!(outcome(stub.layer(), get(&fields)).await.0, 200);
    let expected = [4, 5, 0].map(|n| TokenDigest::of(&token(n)));
    assert_eq!(stub.look_ups(), [expected]);
    assert_eq!(stub.loads(), 1);
}

#[tokio::test]
async fn session_from_other_middleware_is_dropped() {
    let stub = stub();
    let Validation::Valid(session) = stub.sessions().validate(&token(0)).await else {
        panic!("token 0 is active");
    };
    for (layer, expected) in [
        (stub.layer(), (401, "")),
        (stub.layer().optional(), (200, "anonymous")),
        (stub.layer().skip(|_| true), (200, "anonymous")),
    ] {
        let mut request = get(&[]);
        request.extensions_mut().insert(session.clone());
        let (status, user) = outcome(layer.clone(), request).await;
        assert_eq!((status, user.as_str()), expected, "{layer:?}");
    }
    let mut preflight = preflight();
    preflight.extensions_mut().insert(session);
    let layer = stub.layer().danger_pass_preflights_unguarded(true);
    let (status, user) = outcome(layer, preflight).await;
    assert_eq!((status, user.as_str()), (200, "anonymous"));
}
