//! The configuration of the middleware.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::http::config::Config;
use crate::http::cookie::SessionCookie;
use crate::http::extract::TokenSource;
use crate::http::reject::Rejection;
use crate::http::service::SessionCacheService;
use crate::sessions::Sessions;

/// A layer that lets only requests with a valid session reach the inner service.
///
/// The layer inserts a [`Session`](crate::Session) into the request's extensions. With the feature
/// `axum`, the session is also an extractor. The response's extensions contain the [`Rejection`] of
/// a rejected request, and a [`LookupInfo`](crate::LookupInfo) if [that is on](Self::lookup_info).
///
/// ```
/// # #[cfg(feature = "axum")] mod example {
/// use axum::{Router, routing::get};
/// use session_layer::{Session, SessionCacheLayer, SessionCookie, Sessions};
///
/// fn app(sessions: Sessions) -> Router {
///     let cookie = SessionCookie::host_prefixed();
///     Router::new()
///         .route("/me", get(|session: Session| async move { session.user_id().to_owned() }))
///         .layer(SessionCacheLayer::new(sessions).cookie(&cookie))
/// }
/// # }
/// ```
///
/// # Requests
///
/// | the request has | result |
/// |---|---|
/// | a valid token | passes, with the `Session` |
/// | no token | 401, `WWW-Authenticate: Bearer` |
/// | an invalid token, or a malformed cookie | the same 401, with `error="invalid_token"` |
/// | several cookies of the name | passes if one is valid |
/// | valid cookies of different users | 401 |
/// | more than four cookies of the name | 401 |
/// | a Bearer token and cookies | the Bearer token decides alone |
/// | two Bearer fields, or a malformed one | 400, no store is read |
/// | `Authorization` of another scheme | the cookie is read |
/// | a token that an outage leaves unknown | 503 with `Retry-After` |
/// | a CORS preflight | 204 from the layer, without CORS headers |
///
/// An invalid token is unknown, expired or revoked. A CORS preflight is an `OPTIONS` request with
/// `Origin` and `Access-Control-Request-Method`. Several cookies are looked up in one round trip. A
/// malformed cookie is not looked up, but counts towards the four.
///
/// # CORS
///
/// Browsers send preflights without cookies, and a preflight therefore never has a session. The
/// layer responds to it with 204 and does not call the inner service. A service may route by path
/// and ignore the method, as tonic's do. It would then execute the call unauthenticated.
///
/// Put CORS middleware outside of this layer. In axum, add it after this layer. It then handles
/// preflights first, and also adds its headers to rejections.
///
/// # Inner services
///
/// The inner service is any `Service<Request<_>>` that is `Clone` and returns a `Response<B>`. Its
/// body `B` is an [`http_body::Body`] with `Data: From<Bytes>`, because rejections have a body too.
/// The bodies of axum, hyper and tonic qualify. The error type is unchanged.
///
/// # Nested layers
///
/// The innermost layer decides. It drops the session of an outer layer and validates the token
/// again. An outer `.optional()` or `.skip(…)` therefore never loosens an inner layer. Each layer
/// costs a look-up. A session inserted by other middleware is dropped too.
#[derive(Debug, Clone)]
#[must_use]
pub struct SessionCacheLayer {
    config: Arc<Config>,
}

impl SessionCacheLayer {
    /// Creates a layer that requires a valid session of these. Every value of its settings is
    /// allowed, so there is no `build()`.
    pub fn new(sessions: Sessions) -> Self {
        Self { config: Arc::new(Config::new(sessions)) }
    }

    /// Lets requests without a valid session pass, without a `Session`. A malformed Bearer token
    /// still gets 400. In an outage, a request with a token still gets 503, because its user may be
    /// logged in. A CORS preflight passes without a session. Defaults to required.
    pub fn optional(self) -> Self {
        self.set(|config| config.optional = true)
    }

    /// Skips requests for which `skip` returns `true`. They reach the inner service without a
    /// session, and their responses are unchanged. Extracting a `Session` there fails with an error
    /// that names the cause. A second call replaces the first. Defaults to none.
    pub fn skip(self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.set(|config| config.skip = Some(Arc::new(skip)))
    }

    /// Sets the response to rejected requests, such as a redirect to the login page. Defaults to
    /// [`Rejection::response`].
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Response, StatusCode, header::LOCATION};
    /// use session_layer::{Rejection, SessionCacheLayer, Sessions};
    ///
    /// fn to_login(sessions: Sessions) -> SessionCacheLayer {
    ///     SessionCacheLayer::new(sessions).on_reject(|_parts, rejection| {
    ///         let mut response = rejection.response();
    ///         if matches!(rejection, Rejection::Unauthorized { .. }) {
    ///             *response.status_mut() = StatusCode::SEE_OTHER;
    ///             response.headers_mut().insert(LOCATION, "/login".parse().unwrap());
    ///         }
    ///         response
    ///     })
    /// }
    /// ```
    pub fn on_reject(
        self,
        answer: impl Fn(&Parts, &Rejection) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.set(|config| config.on_reject = Some(Arc::new(answer)))
    }

    /// Sets whether responses have a `Server-Timing` field with the source and the duration of the
    /// validation in ms: `session;desc="hit";dur=0.31`. The source is `near`, `hit`, `store` or
    /// `unavailable`. Requests without a token and 400 responses have no such field. Defaults to
    /// false, because the field shows clients how warm the cache is.
    pub fn server_timing(self, on: bool) -> Self {
        self.set(|config| config.server_timing = on)
    }

    /// Sets whether the extensions of responses contain a [`LookupInfo`](crate::LookupInfo), for
    /// middleware outside of this layer. Those of a request without a token contain none. Defaults
    /// to false, because it costs three allocations for each request.
    pub fn lookup_info(self, on: bool) -> Self {
        self.set(|config| config.lookup_info = on)
    }

    /// Sets where tokens are read from, in this order. The first source that a request uses decides
    /// alone. Without a source, no request has a token. [`cookie`](Self::cookie) sets the name of
    /// the cookie, before or after this call. Defaults to [`TokenSource::Bearer`], then
    /// [`TokenSource::Cookie`].
    pub fn sources(self, sources: impl IntoIterator<Item = TokenSource>) -> Self {
        self.set(|config| config.sources = sources.into_iter().collect())
    }

    /// Sets the cookie that [`TokenSource::Cookie`] is, and that the layer renews. Defaults to the
    /// cookie `session`, which is for development. Use [`SessionCookie::host_prefixed`] in
    /// production.
    ///
    /// The layer renews the cookie of a [persistent](crate::NewSession::persistent) session with an
    /// idle timeout: it sends the cookie again with a new `Max-Age`. A renewal is due when the use
    /// of the session is [recorded](crate::Session::last_seen_at), about once a minute, and for 15
    /// s after that. If one response is lost or cannot carry the cookie, the next ones carry it.
    ///
    /// A response does not carry the renewed cookie in these cases:
    ///
    /// - The request sent the token in another way, or a rotation has replaced the token.
    /// - The handler sets a cookie of this name itself.
    /// - The application lets shared caches store the response: `public`, `s-maxage`,
    ///   `private="…"`, `CDN-Cache-Control`, `Surrogate-Control`, `X-Accel-Expires` or similar.
    /// - [`cache_headers`](Self::cache_headers) is off, and `Cache-Control` has neither `private`
    ///   nor `no-store`.
    ///
    /// The layer adds `private` to any other response with the cookie, such as a `no-cache` one.
    pub fn cookie(self, cookie: &SessionCookie) -> Self {
        self.set(|config| config.cookie = cookie.clone())
    }

    /// Sets whether CORS preflights reach the inner service **without a session**. Any client can
    /// send a request that looks like a preflight, with a body and to any path. This is safe only
    /// if the inner service does nothing on `OPTIONS` that needs a session. tonic, `service_fn`,
    /// axum's `any` and reverse proxies ignore the method. Defaults to false: see
    /// [CORS](Self#cors).
    pub fn danger_pass_preflights_unguarded(self, pass: bool) -> Self {
        self.set(|config| config.pass_preflights = pass)
    }

    /// Sets whether validated responses and rejections get `Vary: Authorization, Cookie`. Those
    /// without `Cache-Control` also get `private`. No cache in between can then serve one user's
    /// page to another user. Defaults to true.
    ///
    /// The layer does not change the application's own instructions to shared caches, such as
    /// `public` or `CDN-Cache-Control`. Such a page is stored and must be the same for all users.
    /// The exception is a response whose handler sets the session cookie. No shared cache may store
    /// it. The layer makes it `private` and removes permissions to store it.
    pub fn cache_headers(self, on: bool) -> Self {
        self.set(|config| config.cache_headers = on)
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S> Layer<S> for SessionCacheLayer {
    type Service = SessionCacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionCacheService::with_config(inner, Arc::clone(&self.config))
    }
}
