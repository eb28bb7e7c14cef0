//! [`SessionCacheLayer`]: what is guarded, and how.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::cookie::{DEFAULT_COOKIE_NAME, SessionCookie};
use crate::extract::TokenSource;
use crate::reject::Rejection;
use crate::service::SessionCacheService;
use crate::sessions::Sessions;

/// Guards the services under it: a request reaches them with a valid session or not at all.
///
/// The session is put into the request's extensions as a [`Session`](crate::Session); with the feature
/// `axum` it is an extractor too. The answer tells in its extensions how it was found
/// ([`Answered`](crate::Answered)), or why the request was rejected ([`Rejection`]).
///
/// ```
/// # #[cfg(feature = "axum")] mod example {
/// use axum::{Router, routing::get};
/// use session_layer::{Session, SessionCacheLayer, Sessions};
///
/// fn app(sessions: Sessions) -> Router {
///     Router::new()
///         .route("/me", get(|session: Session| async move { session.user_id().to_owned() }))
///         .layer(SessionCacheLayer::new(sessions))
/// }
/// # }
/// ```
///
/// # What a request may carry
///
/// | the request has | it |
/// |---|---|
/// | a valid token | passes, with the `Session` |
/// | no token; one that is unknown, expired or revoked; a cookie that is no token | 401, always the same body |
/// | several cookies of the name | the valid one counts; valid ones of different users: 401 |
/// | a Bearer token and cookies | the Bearer token decides alone |
/// | two Bearer fields, or one that is no token | 400, no store is asked |
/// | `Authorization` of another scheme | the cookie is read |
/// | a token of which nobody can say anything, in an outage | 503 with `Retry-After` |
/// | `OPTIONS`, `Origin` and `Access-Control-Request-Method`: a CORS preflight | passes without a session |
///
/// Of several cookies, the first four that could be tokens are looked up, in one round trip. Those that
/// could not be do not count, up to sixteen; the rest is ignored.
///
/// # Which services
///
/// Any `Service<Request<_>>` that is `Clone` and answers with a `Response<B>` whose body is an
/// [`http_body::Body`] with `Data: From<Bytes>` (as that of axum, hyper and tonic, whose data are
/// `Bytes`): rejections have a body too. Its error type stays.
///
/// # Nested layers
///
/// The inner layer decides: it drops the session that an outer one found and looks for itself, so
/// that an outer `.optional()` or `.skip(…)` never loosens an inner guard. Each of them costs a
/// look-up. Nobody else can hand in a session either: one that is found in a request's extensions is
/// dropped.
#[derive(Debug, Clone)]
#[must_use]
pub struct SessionCacheLayer {
    config: Arc<Config>,
}

/// Asked whether to skip a request.
type Skip = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;
/// Makes the answer to a rejected request.
type OnReject = Arc<dyn Fn(&Parts, &Rejection) -> Response<Bytes> + Send + Sync>;

/// What a layer and the services it made share.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) sessions: Sessions,
    pub(crate) optional: bool,
    pub(crate) sources: Vec<TokenSource>,
    /// How the cookie is sent again.
    pub(crate) cookie: SessionCookie,
    pub(crate) skip: Option<Skip>,
    pub(crate) on_reject: Option<OnReject>,
    pub(crate) preflight: bool,
    pub(crate) server_timing: bool,
    pub(crate) cache_headers: bool,
}

impl SessionCacheLayer {
    /// A layer that requires a valid session of these.
    pub fn new(sessions: Sessions) -> Self {
        let config = Config {
            sessions,
            optional: false,
            sources: vec![
                TokenSource::Bearer,
                TokenSource::cookie(DEFAULT_COOKIE_NAME),
            ],
            cookie: SessionCookie::new(),
            skip: None,
            on_reject: None,
            preflight: true,
            server_timing: false,
            cache_headers: true,
        };
        Self {
            config: Arc::new(config),
        }
    }

    /// Lets requests without a valid session pass, without a `Session`. A malformed Bearer token is
    /// still 400, and an outage still 503 where a token was presented: nobody who is logged in is
    /// taken for a stranger. Defaults to required.
    pub fn optional(self) -> Self {
        self.set(|config| config.optional = true)
    }

    /// Passes the requests of which this says `true` on, unguarded: they get no `Session` and
    /// their answers are left alone, and extracting a `Session` there is an error that says so. A second
    /// call replaces the first. Defaults to none.
    pub fn skip(self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.set(|config| config.skip = Some(Arc::new(skip)))
    }

    /// Answers rejected requests: a redirect to the login page, for instance.
    /// [`Rejection::response`] is the default.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Response, StatusCode, header::LOCATION};
    /// use session_layer::{Rejection, SessionCacheLayer, Sessions};
    ///
    /// fn to_login(sessions: Sessions) -> SessionCacheLayer {
    ///     SessionCacheLayer::new(sessions).on_reject(|_parts, rejection| {
    ///         let mut response = rejection.response();
    ///         if *rejection == Rejection::Unauthorized {
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

    /// Whether answers tell in `Server-Timing` who validated the token and in how many ms:
    /// `session;desc="hit";dur=0.31` (`hit`, `store`, or `unavailable`: nobody). A request without a
    /// token has none, and neither has a 400. Defaults to false: it shows outsiders how warm the cache is.
    pub fn server_timing(self, on: bool) -> Self {
        self.set(|config| config.server_timing = on)
    }

    /// Where tokens are looked for, in this order; the first source that presents something decides
    /// alone. Defaults to `Authorization: Bearer`, then the cookie `session`.
    pub fn sources(self, sources: impl IntoIterator<Item = TokenSource>) -> Self {
        self.set(|config| config.sources = sources.into_iter().collect())
    }

    /// Reads this cookie instead of the cookies among the sources so far; where none is among them,
    /// after the others. Defaults to the cookie `session`.
    ///
    /// It is also what the layer sends: where a touch has moved the end of a
    /// [persistent](crate::NewSession::persistent) session that this cookie was presented for, the answer has
    /// it again, with the new `Max-Age`. Not where the handler sets a cookie of this name itself, and not where a
    /// cache that several clients share might keep the answer: where its `Cache-Control` has neither `private`
    /// (which the layer adds where there is none) nor `no-store`.
    pub fn cookie(self, cookie: &SessionCookie) -> Self {
        self.set(|config| {
            let is_cookie = |source: &TokenSource| matches!(source, TokenSource::Cookie(_));
            let sources = &mut config.sources;
            let at = sources.iter().position(is_cookie).unwrap_or(sources.len());
            sources.retain(|source| !is_cookie(source));
            sources.insert(at, TokenSource::cookie(cookie.name().to_owned()));
            config.cookie = cookie.clone();
        })
    }

    /// Whether CORS preflights (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) pass
    /// without a session: browsers send them without cookies, and would take a 401 for "not allowed".
    /// Such a request reaches the routes below, so none of them may do on `OPTIONS` what needs a
    /// session. Defaults to true.
    pub fn preflight(self, pass: bool) -> Self {
        self.set(|config| config.preflight = pass)
    }

    /// Whether guarded answers, rejections included, get `Vary: Authorization, Cookie` and, where they
    /// have no `Cache-Control`, `private`: so that no cache between us and the browser serves one user's
    /// page to another. Defaults to true.
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
        SessionCacheService::new(inner, Arc::clone(&self.config))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("optional", &self.optional)
            .field("sources", &self.sources)
            .field("cookie", &self.cookie)
            .field("skip", &self.skip.is_some())
            .field("on_reject", &self.on_reject.is_some())
            .field("preflight", &self.preflight)
            .field("server_timing", &self.server_timing)
            .field("cache_headers", &self.cache_headers)
            .finish_non_exhaustive()
    }
}
