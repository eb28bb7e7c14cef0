//! session-layer's own middleware under the probe, on the embedded pair.

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::{Request, Response};
use http_body_util::{Empty, Full};
use session_layer::cache::MemoryCache;
use session_layer::store::SqliteStore;
use session_layer::{
    NewSession, ResponseFuture, SessionCacheLayer, SessionCacheService, SessionToken, Sessions,
};
use tower::Service;

use crate::probe::{Inner, InnerError, Probe, Rule, RulesBroken, assert_auto_traits};

type Body = Full<Bytes>;

const _: () = assert_auto_traits::<SessionCacheLayer, Request<Body>, Response<Body>>();

async fn sessions() -> Sessions {
    let store = SqliteStore::open(":memory:").await.unwrap();
    Sessions::builder(MemoryCache::new(1000), store).build()
}

fn with_cookie<B: Default>(token: &SessionToken) -> Request<B> {
    let value = format!("session={}", token.reveal());
    let request = Request::builder().header(COOKIE, value);
    request.body(B::default()).unwrap()
}

fn bare<B: Default>() -> Request<B> {
    Request::new(B::default())
}

/// With requests of every kind: one that is valid, and passes; one with a token that nobody has, one with
/// none, and one that is malformed.
async fn probed<B>(layer: SessionCacheLayer, sessions: &Sessions) -> Result<(), RulesBroken>
where
    B: Default + Send + 'static,
{
    let valid = sessions
        .create(NewSession::new("alice"))
        .await
        .unwrap()
        .token;
    let unknown = SessionToken::generate().unwrap();
    let malformed = || {
        let request = Request::builder().header(AUTHORIZATION, "Bearer ?");
        request.body(B::default()).unwrap()
    };
    let probe = Probe::new(
        layer,
        move || with_cookie(&valid),
        || Response::new(B::default()),
    )
    .also(move || with_cookie(&unknown))
    .also(bare)
    .also(malformed);
    let report = probe.run().await?;
    // Each before its first poll, and the one that passes at each await of the inner service too.
    assert!(report.dropped_at >= 4 + 3, "{report}");
    Ok(())
}

#[tokio::test]
async fn it_keeps_towers_rules_whatever_it_is_told() {
    let sessions = sessions().await;
    let layer = || SessionCacheLayer::new(sessions.clone());
    for layer in [layer(), layer().optional(), layer().skip(|_| true)] {
        probed::<Body>(layer, &sessions).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_them_with_other_bodies_and_on_several_threads() {
    let sessions = sessions().await;
    let layer = SessionCacheLayer::new(sessions.clone());
    probed::<Empty<Bytes>>(layer, &sessions).await.unwrap();
}

/// The probe says nothing where nothing passes.
#[tokio::test]
async fn a_request_that_should_pass_and_is_rejected_is_told() {
    let layer = SessionCacheLayer::new(sessions().await);
    let error = Probe::new(layer, bare::<Body>, Response::<Body>::default)
        .run()
        .await;
    let error = error.unwrap_err();
    assert!(error.broke(Rule::PassesRequestsOn), "{error}");
    assert_eq!(error.violations().len(), 1, "{error}");
}

/// Stricter than Tower: the inner service's error type stays as it is, for a rejection is a response. And the
/// future has a name.
#[test]
fn error_type_and_future_are_what_they_should_be() {
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
