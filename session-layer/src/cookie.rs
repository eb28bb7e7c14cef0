//! [`SessionCookie`]: one configuration for reading, issuing and clearing the session's cookie.

use std::borrow::Cow;
use std::fmt;

use cookie::time::{Duration, OffsetDateTime};
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::session::Session;
use crate::token::SessionToken;

/// The name of a cookie that was given none.
pub(crate) const DEFAULT_COOKIE_NAME: &str = "session";

/// The cookie that carries the session token: its name and attributes, in one place for
/// [`SessionCacheLayer::cookie`](crate::SessionCacheLayer::cookie), for the login that issues it and
/// the logout that clears it. (A browser clears a cookie only if name, domain and path are the same.)
///
/// It is always `HttpOnly`. It goes when the browser ends its own session, or, for a
/// [persistent](crate::NewSession::persistent) one ("remember me"), when ours ends: `Max-Age`, which the
/// layer sends anew whenever a touch has moved that moment. How long the session lasts is for the store to
/// say, whatever the browser keeps.
///
/// Wherever the application is served over HTTPS only, use [`host_prefixed`](Self::host_prefixed).
///
/// ```
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::HeaderMap;
/// use session_layer::{NewSession, SessionCookie, Sessions};
/// use session_layer::{cache::MemoryCache, store::SqliteStore};
///
/// let cookie = SessionCookie::host_prefixed();
/// let store = SqliteStore::open(":memory:").await?;
/// let sessions = Sessions::builder(MemoryCache::new(1_000), store).build();
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
/// With the feature `axum` it can be returned beside the rest of an answer:
/// `(cookie.issue(&created.token, &created.session), Json(body))`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct SessionCookie {
    name: Cow<'static, str>,
    secure: bool,
    domain: Option<Cow<'static, str>>,
    path: Cow<'static, str>,
    same_site: SameSite,
}

/// Which requests that come from other sites carry the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SameSite {
    /// None: not even a link from another site.
    Strict,
    /// Links that lead to us, but no forms and no scripts of other sites.
    #[default]
    Lax,
    /// All. It then needs protection of its own against forged requests. Browsers accept this with
    /// `Secure` only, so that is set too.
    None,
}

impl SessionCookie {
    /// The cookie `session`, without `Secure`: for development over plain HTTP.
    pub fn new() -> Self {
        Self::named(DEFAULT_COOKIE_NAME)
    }

    /// The cookie `__Host-session`, with `Secure`, `Path=/` and no domain: what browsers demand of this
    /// prefix. In return no other host, not even a subdomain or its parent, can plant or overwrite it.
    pub fn host_prefixed() -> Self {
        Self::named("__Host-session")
    }

    /// A cookie of this name.
    ///
    /// What browsers demand of the prefixes `__Host-` and `__Secure-` is always set, whatever the
    /// setters say: without it the cookie would be dropped.
    ///
    /// # Panics
    /// If the name is empty or contains what cookie names may not: anything but ASCII letters, digits
    /// and ``!#$%&'*+-.^_`|~``.
    pub fn named(name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        assert!(
            !name.is_empty() && name.bytes().all(is_token_char),
            "{name:?} cannot be a cookie's name: ASCII letters, digits and !#$%&'*+-.^_`|~ can"
        );
        Self {
            name,
            secure: false,
            domain: None,
            path: Cow::Borrowed("/"),
            same_site: SameSite::default(),
        }
    }

    /// Whether the browser may send it over HTTPS only. Let configuration decide, not the scheme of a
    /// request: behind a proxy that is the wrong one. Defaults to false, to true for the prefixes
    /// `__Host-` and `__Secure-` and for [`SameSite::None`].
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// A domain whose every host gets the cookie. Defaults to none: only the host that set it.
    ///
    /// # Panics
    /// If it is empty or contains `;` or what is not printable ASCII.
    pub fn domain(mut self, domain: impl Into<Cow<'static, str>>) -> Self {
        let domain = domain.into();
        assert_attribute("domain", &domain);
        self.domain = Some(domain);
        self
    }

    /// The path under which the browser sends it. Defaults to `/`.
    ///
    /// # Panics
    /// If it does not begin with `/`, or contains `;` or what is not printable ASCII.
    pub fn path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        let path = path.into();
        assert_attribute("path", &path);
        assert!(path.starts_with('/'), "a cookie's path begins with /");
        self.path = path;
        self
    }

    /// Which requests from other sites carry it. Defaults to [`SameSite::Lax`].
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the browser this token of this session: for the answer to a login or a rotation.
    pub fn issue(&self, token: &SessionToken, session: &Session) -> SetCookie {
        self.keep(token.reveal(), session)
    }

    /// The same for a token that a request presented in this cookie.
    pub(crate) fn keep(&self, presented: &str, session: &Session) -> SetCookie {
        let mut cookie = self.with_value(presented);
        if session.is_persistent() {
            cookie.set_max_age(max_age(session));
        }
        SetCookie::new(&cookie)
    }

    /// Makes the browser forget the token: for the answer to a logout. Never for an outage, which says
    /// nothing about the session.
    pub fn clear(&self) -> SetCookie {
        let mut cookie = self.with_value("");
        cookie.set_max_age(Duration::ZERO);
        cookie.set_expires(OffsetDateTime::UNIX_EPOCH);
        SetCookie::new(&cookie)
    }

    fn with_value<'a>(&'a self, value: &'a str) -> cookie::Cookie<'a> {
        let host = has_prefix(&self.name, "__Host-");
        let secure = self.secure
            || self.same_site == SameSite::None
            || host
            || has_prefix(&self.name, "__Secure-");
        let mut cookie = cookie::Cookie::new(self.name.as_ref(), value);
        cookie.set_http_only(true);
        cookie.set_same_site(match self.same_site {
            SameSite::Strict => cookie::SameSite::Strict,
            SameSite::Lax => cookie::SameSite::Lax,
            SameSite::None => cookie::SameSite::None,
        });
        cookie.set_secure(secure);
        cookie.set_path(if host { "/" } else { self.path.as_ref() });
        if let Some(domain) = self.domain.as_deref().filter(|_| !host) {
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

/// A `Set-Cookie` header field. It may hold a token, so it is redacted in `Debug`.
#[derive(Clone)]
#[must_use = "it has no effect until it is in an answer's headers"]
pub struct SetCookie(HeaderValue);

impl SetCookie {
    fn new(cookie: &cookie::Cookie<'_>) -> Self {
        let mut value = HeaderValue::try_from(cookie.to_string())
            .expect("name and attributes were checked when they were set, a token is base64url or came in a header");
        // Keeps it out of `Debug` and out of HTTP/2's compression.
        value.set_sensitive(true);
        Self(value)
    }

    /// Adds it to an answer's headers, beside the cookies that are there.
    pub fn append_to(self, headers: &mut HeaderMap) {
        headers.append(SET_COOKIE, self.0);
    }

    /// The field's value, marked as sensitive. Append it; inserting would drop the answer's other
    /// cookies.
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

/// How long a browser keeps the cookie: from when the session was last seen until it ends. That is now, or the use
/// before this one where this one was not noted yet; a cookie that outlives its session by the time between lets
/// nobody in. (`Max-Age` rather than a date: clocks of browsers are wrong.)
fn max_age(session: &Session) -> Duration {
    let left = session.ends_at().since(session.last_seen_at());
    Duration::seconds(i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
}

/// Browsers compare these prefixes without regard to case.
fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn is_token_char(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[track_caller]
fn assert_attribute(what: &str, value: &str) {
    let is_printable = |b: u8| b == b' ' || b.is_ascii_graphic();
    assert!(
        !value.is_empty() && value.bytes().all(|b| b != b';' && is_printable(b)),
        "{value:?} cannot be a cookie's {what}: printable ASCII without ; can"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::session::{SessionId, SessionParts, data_to_json};

    fn session(lifetime_s: u64, idle_s: Option<u64>, persistent: bool) -> Session {
        let at = Timestamp::from_micros(1_000_000);
        SessionParts {
            id: SessionId::from_bytes([1; 16]),
            user_id: "alice".to_owned(),
            version: 1,
            created_at: at,
            authenticated_at: at,
            last_seen_at: at,
            expires_at: at.after(StdDuration::from_secs(lifetime_s)),
            idle_timeout: idle_s.map(StdDuration::from_secs),
            persistent,
            data: data_to_json(()).unwrap(),
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
    fn a_persistent_one_says_when_its_session_ends() {
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
        let new = SessionCookie::new;
        for (cookie, expected) in [
            (new(), "session=TOKEN; HttpOnly; SameSite=Lax; Path=/"),
            (
                new().secure(true).domain("example.com").path("/app"),
                "session=TOKEN; HttpOnly; SameSite=Lax; Secure; Path=/app; Domain=example.com",
            ),
            (
                new().same_site(SameSite::Strict),
                "session=TOKEN; HttpOnly; SameSite=Strict; Path=/",
            ),
            (
                new().same_site(SameSite::None).secure(false),
                "session=TOKEN; HttpOnly; SameSite=None; Secure; Path=/",
            ),
            (
                SessionCookie::host_prefixed()
                    .secure(false)
                    .domain("example.com")
                    .path("/app"),
                "__Host-session=TOKEN; HttpOnly; SameSite=Lax; Secure; Path=/",
            ),
            (
                SessionCookie::named("__secure-s").path("/app"),
                "__secure-s=TOKEN; HttpOnly; SameSite=Lax; Secure; Path=/app",
            ),
        ] {
            assert_eq!(issued(&cookie), expected);
        }
    }

    #[test]
    fn clearing_names_the_same_cookie() {
        let cookie = SessionCookie::named("s").domain("example.com").path("/app");
        assert_eq!(
            cookie.clear().header_value(),
            "s=; HttpOnly; SameSite=Lax; Path=/app; Domain=example.com; Max-Age=0; \
             Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }

    #[test]
    fn other_cookies_stay_and_the_token_is_not_shown() {
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
    fn what_would_break_the_field_is_refused_at_once() {
        for broken in ["", "a b", "a;b", "a=b", "a\r\nb", "\u{e9}"] {
            let named = || SessionCookie::named(broken);
            assert!(std::panic::catch_unwind(named).is_err(), "{broken:?}");
        }
        for broken in ["", "/a;b", "/a\r\nb", "/\u{e9}"] {
            let path = || SessionCookie::new().path(broken);
            assert!(std::panic::catch_unwind(path).is_err(), "{broken:?}");
            let domain = || SessionCookie::new().domain(broken);
            assert!(std::panic::catch_unwind(domain).is_err(), "{broken:?}");
        }
        assert!(std::panic::catch_unwind(|| SessionCookie::new().path("app")).is_err());
    }
}
