//! session-layer's own middleware under the probe, on the embedded pair.

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN};
use http::{Method, Request, Response};
use http_body_util::{Empty, Full};
use session_layer::cache::MemoryCache;
use session_layer::http::ResponseFuture;
use session_layer::store::SqliteStore;
use session_layer::{NewSession, SessionCacheLayer, SessionCacheService, SessionToken, Sessions};
use tower::Service;

use crate::probe::{Inner, InnerError, Probe, Rule, RulesBroken, assert_auto_traits};

type Body = Full<Bytes>;

const _: () = assert_auto_traits::<SessionCacheLayer, Request<Body>, Response<Body>>();

async fn sessions() -> Sessions {
    let store = SqliteStore::open(":memory:").await.unwrap();
    Sessions::builder(MemoryCache::new(1000), store).build().unwrap()
}

fn with_cookie<B: Default>(token: &SessionToken) -> Request<B> {
    let value = format!("session={}", token.reveal());
    let request = Request::builder().header(COOKIE, value);
    request.body(B::default()).unwrap()
}

fn bare<B: Default>() -> Request<B> {
    Request::new(B::default())
}

/// Probes the layer with five kinds of request: valid, with an unknown token, without a token,
/// malformed, and a CORS preflight. Only the valid one passes.
async fn probed<B>(layer: SessionCacheLayer, sessions: &Sessions) -> Result<(), RulesBroken>
where
    B: Default + Send + 'static,
{
    let valid = sessions.create(NewSession::new("alice")).await.unwrap().token;
    let unknown = SessionToken::generate().unwrap();
    let malformed = || {
        let request = Request::builder().header(AUTHORIZATION, "Bearer ?");
        request.body(B::default()).unwrap()
    };
    let preflight = || {
        let request = Request::builder()
            .method(Method::OPTIONS)
            .header(ORIGIN, "https://example.com")
            .header(ACCESS_CONTROL_REQUEST_METHOD, "PUT");
        request.body(B::default()).unwrap()
    };
    let probe = Probe::new(layer, move || with_cookie(&valid), || Response::new(B::default()))
        .also(move || with_cookie(&unknown))
        .also(bare)
        .also(malformed)
        .also(preflight);
    let report = probe.run().await?;
    // Each is dropped before its first poll, and the valid one also at each await inside.
    assert!(report.dropped_at >= 5 + 3, "{report}");
    Ok(())
}

#[tokio::test]
async fn layer_in_each_mode_keeps_towers_rules() {
    let sessions = sessions().await;
    let layer = || SessionCacheLayer::new(sessions.clone());
    for layer in [
        layer(),
        layer().optional(),
        layer().skip(|_| true),
        layer().danger_pass_preflights_unguarded(true),
    ] {
        probed::<Body>(layer, &sessions).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layer_with_empty_bodies_on_several_threads_keeps_rules() {
    let sessions = sessions().await;
    let layer = SessionCacheLayer::new(sessions.clone());
    probed::<Empty<Bytes>>(layer, &sessions).await.unwrap();
}

/// Checks that a request that never reaches the inner service is reported. It would prove nothing.
#[tokio::test]
async fn rejected_request_that_should_pass_is_reported() {
    let layer = SessionCacheLayer::new(sessions().await);
    let error = Probe::new(layer, bare::<Body>, Response::<Body>::default).run().await;
    let error = error.unwrap_err();
    assert_eq!(super::rules(&error), [Rule::PassesRequestsOn], "{error}");
}

/// Checks more than Tower's rules. The error type is the inner service's, because a rejection is a
/// response. The future's type can be named.
#[test]
fn service_keeps_the_inner_error_and_names_its_future() {
    type Under = SessionCacheService<Inner<Response<Body>>>;
    fn is<S>()
    where
        S: Service<
                Request<Body>,
                Error = InnerError,
                Future = ResponseFuture<Inner<Response<Body>>, Body>,
            >,
    {
    }
    is::<Under>();
}
