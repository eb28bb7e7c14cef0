//! The layer over the ports in memory, and requests for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderName, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use session_layer::error::CacheErrorKind;
use session_layer::{Session, SessionCacheLayer, Sessions, TokenDigest};
use tower::{Layer as _, ServiceExt as _};

use crate::ports::{Cache, How, Store, digest, entry, session, token};

/// A store without sessions and a cache that keeps its entries. Clones share their state.
#[derive(Clone)]
pub(crate) struct Stub {
    store: Store,
    cache: Cache,
}

impl Stub {
    pub(crate) fn new() -> Self {
        let (store, cache) = (Store::new(), Cache::default());
        store.state().empty = true;
        cache.state().kept = Some(HashMap::new());
        Self { store, cache }
    }

    /// Returns a handle over this cache and store. The budget is short, for tests that exhaust it.
    pub(crate) fn sessions(&self) -> Sessions {
        self.sessions_within(Duration::from_millis(50))
    }

    fn sessions_within(&self, budget: Duration) -> Sessions {
        let builder = Sessions::builder(self.cache.clone(), self.store.clone());
        builder.validation_timeout(budget).build().unwrap()
    }

    pub(crate) fn layer(&self) -> SessionCacheLayer {
        SessionCacheLayer::new(self.sessions())
    }

    /// Returns a layer with a budget that is long enough for a busy machine.
    pub(crate) fn patient_layer(&self) -> SessionCacheLayer {
        SessionCacheLayer::new(self.sessions_within(Duration::from_secs(60)))
    }

    /// Makes token `n` an active session of this user.
    pub(crate) fn active(self, n: usize, user: &str) -> Self {
        self.store.state().users.insert(digest(n), user.to_owned());
        self
    }

    pub(crate) fn revoked(self, n: usize) -> Self {
        self.store.end(n);
        self
    }

    /// Caches token `n` as a session of this user.
    pub(crate) fn cached(self, n: usize, user: &str) -> Self {
        let digest = digest(n);
        let entry = entry(session(digest, user, None));
        self.cache.state().kept.get_or_insert_default().insert(digest, entry);
        self
    }

    pub(crate) fn store_down(self, down: bool) -> Self {
        self.store.state().down = down;
        self
    }

    pub(crate) fn store_hangs(self) -> Self {
        self.store.port_calls().break_next("load", How::Hangs, usize::MAX);
        self
    }

    pub(crate) fn cache_down(self) -> Self {
        self.cache.fails(CacheErrorKind::Unreachable);
        self
    }

    pub(crate) fn probe_hangs(self) -> Self {
        for calls in [self.store.port_calls(), self.cache.calls()] {
            calls.break_next("probe", How::Hangs, usize::MAX);
        }
        self
    }

    pub(crate) fn loads(&self) -> usize {
        self.store.count("load")
    }

    /// Returns the number of queries to the cache or the store.
    pub(crate) fn asked(&self) -> usize {
        self.loads() + self.cache.count("get")
    }

    /// Returns the number of probes of the cache.
    pub(crate) fn probes(&self) -> usize {
        self.cache.count("probe")
    }

    pub(crate) fn look_ups(&self) -> Vec<Vec<TokenDigest>> {
        self.cache.state().looked_up.clone()
    }
}

/// Creates a GET with these fields. `{0}`, `{1}` and so on in a value are replaced by tokens.
pub(crate) fn get(fields: &[(HeaderName, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    for (name, value) in fields {
        let value = (0..8)
            .fold((*value).to_owned(), |value, n| value.replace(&format!("{{{n}}}"), &token(n)));
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

pub(crate) fn preflight() -> Request<Full<Bytes>> {
    let mut request =
        get(&[(ORIGIN, "https://example.com"), (ACCESS_CONTROL_REQUEST_METHOD, "PUT")]);
    *request.method_mut() = Method::OPTIONS;
    request
}

/// Returns the user of the request's session, such as `alice`, or `anonymous`.
pub(crate) async fn echo_user<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let session = request.extensions().get::<Session>();
    let user = session.map_or("anonymous", Session::user_id);
    Ok(Response::new(Full::from(user.to_owned())))
}

/// Returns the response of the layer over [`echo_user`].
pub(crate) async fn answer(
    layer: SessionCacheLayer,
    request: Request<Full<Bytes>>,
) -> Response<String> {
    let service = layer.layer(tower::service_fn(echo_user::<Full<Bytes>>));
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(body.to_vec()).unwrap())
}

/// Returns the status, and the user if the inner service was reached.
pub(crate) async fn outcome(
    layer: SessionCacheLayer,
    request: Request<Full<Bytes>>,
) -> (u16, String) {
    let response = answer(layer, request).await;
    let status = response.status().as_u16();
    let reached = if status == 200 { response.into_body() } else { String::new() };
    (status, reached)
}
