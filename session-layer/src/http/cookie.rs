//! The configuration for reading, issuing and clearing the session cookie.

use std::borrow::Cow;
use std::fmt;

use cookie::time::{Duration, OffsetDateTime};
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::http::caching;
use crate::model::session::Session;
use crate::model::token::SessionToken;

mod builder;

pub use self::builder::SessionCookieBuilder;

/// The name of a cookie that was given none.
pub(crate) const DEFAULT_COOKIE_NAME: &str = "session";

/// The configuration of the cookie that carries the session token: its name and attributes. The
/// [layer](crate::SessionCacheLayer::cookie), the login and the logout share it, because a browser
/// clears a cookie only if name, domain and path match.
///
/// Use [`host_prefixed`](Self::host_prefixed) in production. Sibling domains can plant a cookie of
/// any name without the prefix `__Host-`.
///
/// The cookie is always `HttpOnly`. A browser drops it when the browser's own session ends. The
/// cookie of a [persistent](crate::NewSession::persistent) session ("remember me") has a `Max-Age`.
/// If unused, it lasts until the session ends. [The layer renews
/// it](crate::SessionCacheLayer::cookie) while the session is in use. The store decides how long
/// the session lasts, whatever the browser keeps.
///
/// ```
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::HeaderMap;
/// use session_layer::{NewSession, SessionCookie, Sessions};
/// use session_layer::cache::MemoryCache;
/// use session_layer::store::SqliteStore;
///
/// let cookie = SessionCookie::host_prefixed();
/// let store = SqliteStore::open(":memory:").await?;
/// let sessions = Sessions::builder(MemoryCache::new(1_000), store).build()?;
/// let created = sessions.create(NewSession::new("alice").persistent(true)).await?;
///
/// let mut headers = HeaderMap::new();
/// cookie.issue(&created.token, &created.session).append_to(&mut headers);
/// let expected = format!(
///     "__Host-session={}; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=86400",
///     created.token.reveal()
/// );
/// assert_eq!(headers["set-cookie"], expected);
/// # Ok(()) }
/// ```
///
/// With the feature `axum`, a handler can return it as a part of its response:
/// `(cookie.issue(&created.token, &created.session), Json(body))`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct SessionCookie {
    name: Cow<'static, str>,
    /// The browser sends it over HTTPS only.
    secure: bool,
    domain: Option<Cow<'static, str>>,
    path: Cow<'static, str>,
    same_site: SameSite,
}

/// The cross-site requests that carry the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SameSite {
    /// None, not even a link from another site.
    Strict,
    /// Links from other sites, but not their forms and scripts.
    #[default]
    Lax,
    /// All. The application then needs protection of its own against forged requests. Browsers
    /// accept this with `Secure` only.
    None,
}

impl SessionCookie {
    /// Creates the cookie `__Host-session`, for production. It has `Secure`, `Path=/` and no
    /// domain, as browsers require for this prefix. No other host can plant or overwrite it, not
    /// even a subdomain or the parent domain.
    pub fn host_prefixed() -> Self {
        Self::with_name("__Host-session", true)
    }

    /// Creates the cookie `session`, without `Secure`, for development over plain HTTP.
    ///
    /// Every sibling domain can plant a cookie of this name. Use
    /// [`host_prefixed`](Self::host_prefixed) in production.
    pub fn new() -> Self {
        Self::with_name(DEFAULT_COOKIE_NAME, false)
    }

    /// Returns the builder of a cookie with this name: ASCII letters, digits and
    /// ``!#$%&'*+-.^_`|~``, at least one, as RFC 6265 allows.
    pub fn builder(name: impl Into<Cow<'static, str>>) -> SessionCookieBuilder {
        SessionCookieBuilder {
            name: name.into(),
            secure: None,
            domain: None,
            path: Cow::Borrowed("/"),
            same_site: SameSite::default(),
        }
    }

    fn with_name(name: &'static str, secure: bool) -> Self {
        Self {
            name: Cow::Borrowed(name),
            secure,
            domain: None,
            path: Cow::Borrowed("/"),
            same_site: SameSite::default(),
        }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Cow<'static, str> {
        self.name.clone()
    }

    /// Creates the `Set-Cookie` field for this token, after a login or a rotation.
    pub fn issue(&self, token: &SessionToken, session: &Session) -> SetCookie {
        self.keep(token.reveal(), session)
    }

    /// Creates the `Set-Cookie` field that keeps the token that a request sent in this cookie.
    pub(crate) fn keep(&self, token: &str, session: &Session) -> SetCookie {
        let mut cookie = self.with_value(token);
        if session.is_persistent() {
            cookie.set_max_age(max_age(session));
        }
        SetCookie::new(&cookie)
    }

    /// Creates the `Set-Cookie` field that removes the token from the browser, after a logout.
    /// Never send it because of an outage, which proves nothing about the session.
    pub fn clear(&self) -> SetCookie {
        let mut cookie = self.with_value("");
        cookie.set_max_age(Duration::ZERO);
        cookie.set_expires(OffsetDateTime::UNIX_EPOCH);
        SetCookie::new(&cookie)
    }

    fn with_value<'a>(&'a self, value: &'a str) -> cookie::Cookie<'a> {
        let mut cookie = cookie::Cookie::new(self.name.as_ref(), value);
        cookie.set_http_only(true);
        cookie.set_same_site(match self.same_site {
            SameSite::Strict => cookie::SameSite::Strict,
            SameSite::Lax => cookie::SameSite::Lax,
            SameSite::None => cookie::SameSite::None,
        });
        cookie.set_secure(self.secure);
        cookie.set_path(self.path.as_ref());
        if let Some(domain) = self.domain.as_deref() {
            cookie.set_domain(domain);
        }
        cookie
    }
}

impl Default for SessionCookie {
    fn default() -> Self {
        Self::new()
    }
}

/// A `Set-Cookie` header field. It may contain a token, and `Debug` therefore redacts it.
#[derive(Clone)]
#[must_use = "it has no effect until it is appended to a response's headers"]
pub struct SetCookie(HeaderValue);

impl SetCookie {
    fn new(cookie: &cookie::Cookie<'_>) -> Self {
        let mut value = HeaderValue::try_from(cookie.to_string()).expect(
            "a Set-Cookie field is a header value: name and attributes were checked when they \
             were set, and the token is base64url or came in a header",
        );
        // A sensitive value is hidden in `Debug` and excluded from HTTP/2's compression.
        value.set_sensitive(true);
        Self(value)
    }

    /// Appends the field to a response's headers and keeps the existing cookies.
    ///
    /// It also prevents shared caches from storing the response, which would give the session to
    /// other clients. It adds `Cache-Control: private` unless `private` or `no-store` is present.
    /// It removes fields and directives that permit storing: `public`, `s-maxage`,
    /// `CDN-Cache-Control`, `Surrogate-Control`, `X-Accel-Expires` and similar ones.
    pub fn append_to(self, headers: &mut HeaderMap) {
        headers.append(SET_COOKIE, self.0);
        caching::forbid(headers);
    }

    /// Returns the field's value, marked as sensitive. Append it, because inserting it would drop
    /// the response's other cookies. Also add `Cache-Control: private` or `no-store`.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for SetCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetCookie(redacted)")
    }
}

/// Returns how long a browser keeps the cookie: from the last recorded use to the end of the
/// session. If this use is not recorded yet, the cookie outlives its session slightly, which admits
/// no request. `Max-Age` is used because the clocks of browsers are unreliable.
fn max_age(session: &Session) -> Duration {
    let left = session.ends_at().since(session.last_seen_at());
    Duration::seconds(i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use http::header::CACHE_CONTROL;

    use super::*;
    use crate::model::clock::Timestamp;
    use crate::model::session::{SessionId, SessionParts};

    fn session(lifetime_s: u64, idle_s: Option<u64>, persistent: bool) -> Session {
        let at = Timestamp::from_micros(1_000_000);
        SessionParts {
            expires_at: at.after(StdDuration::from_secs(lifetime_s)),
            idle_timeout: idle_s.map(StdDuration::from_secs),
            persistent,
            ..SessionParts::new(SessionId::from_bytes([1; 16]), "alice", at)
        }
        .into()
    }

    fn issued_for(cookie: &SessionCookie, session: &Session) -> String {
        let token = SessionToken::generate().unwrap();
        let field = cookie.issue(&token, session).header_value();
        field.to_str().unwrap().replace(token.reveal(), "TOKEN")
    }

    fn issued(cookie: &SessionCookie) -> String {
        issued_for(cookie, &session(60, None, false))
    }

    #[test]
    fn persistent_cookie_has_the_max_age_of_its_session() {
        let cookie = SessionCookie::new();
        for (session, age) in [
            (session(60, None, false), ""),
            (session(60, Some(30), false), ""),
            (session(60, None, true), "; Max-Age=60"),
            (session(60, Some(30), true), "; Max-Age=30"),
            (session(60, Some(90), true), "; Max-Age=60"),
        ] {
            let expected = format!("session=TOKEN; HttpOnly; SameSite=Lax; Path=/{age}");
            assert_eq!(issued_for(&cookie, &session), expected);
        }
    }

    #[test]
    fn attributes() {
        let builder = || SessionCookie::builder("session");
        for (builder, expected) in [
            (builder(), "session=TOKEN; HttpOnly; SameSite=Lax; Path=/"),
            (
                builder().secure(true).domain("example.com").path("/app"),
                "session=TOKEN; HttpOnly; SameSite=Lax; Secure; Path=/app; Domain=example.com",
            ),
            (
                builder().same_site(SameSite::Strict),
                "session=TOKEN; HttpOnly; SameSite=Strict; Path=/",
            ),
            (
                builder().same_site(SameSite::None),
                "session=TOKEN; HttpOnly; SameSite=None; Secure; Path=/",
            ),
        ] {
            assert_eq!(issued(&builder.build().unwrap()), expected);
        }
        let host_prefixed = "__Host-session=TOKEN; HttpOnly; SameSite=Lax; Secure; Path=/";
        assert_eq!(issued(&SessionCookie::host_prefixed()), host_prefixed);
        assert_eq!(SessionCookie::new(), builder().build().unwrap());
        let built = SessionCookie::builder("__Host-session").build();
        assert_eq!(SessionCookie::host_prefixed(), built.unwrap());
    }

    #[test]
    fn clearing_names_the_same_cookie() {
        let cookie = SessionCookie::builder("s").domain("example.com").path("/app");
        let cookie = cookie.build().unwrap();
        assert_eq!(
            cookie.clear().header_value(),
            "s=; HttpOnly; SameSite=Lax; Path=/app; Domain=example.com; Max-Age=0; \
             Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }

    #[test]
    fn append_keeps_other_cookies_and_debug_hides_the_token() {
        let token = SessionToken::generate().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("theme=dark"));
        let cookie = SessionCookie::new().issue(&token, &session(60, None, false));
        assert!(!format!("{cookie:?}").contains(token.reveal()));
        cookie.append_to(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().count(), 2);
        assert!(!format!("{headers:?}").contains(token.reveal()));
    }

    #[test]
    fn response_with_cookie_is_not_stored_by_shared_caches() {
        for (there, expected) in [
            (None, "private"),
            (Some("no-store"), "no-store"),
            (Some("public, max-age=60"), "private"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(there) = there {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static(there));
            }
            headers.insert("cdn-cache-control", HeaderValue::from_static("max-age=60"));
            SessionCookie::new().clear().append_to(&mut headers);
            assert_eq!(headers[CACHE_CONTROL], expected);
            assert!(!headers.contains_key("cdn-cache-control"));
        }
    }
}
