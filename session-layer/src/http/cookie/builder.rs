//! The configuration of a [`SessionCookie`].

use std::borrow::Cow;

use super::{SameSite, SessionCookie};
use crate::http::caching::is_token_char;
use crate::model::error::ConfigError;

/// The configuration of a [`SessionCookie`]. [`SessionCookie::builder`] creates it.
///
/// Browsers reject a cookie that lacks what the prefix of its name requires:
///
/// | prefix | requires |
/// |---|---|
/// | `__Secure-`, `__Http-` | `Secure` |
/// | `__Host-`, `__Host-Http-` | `Secure`, `Path=/`, no domain |
///
/// ```
/// # fn main() -> Result<(), session_layer::ConfigError> {
/// use session_layer::SessionCookie;
///
/// let cookie = SessionCookie::builder("__Secure-id").domain("example.com").build()?;
/// # let _ = cookie;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct SessionCookieBuilder {
    pub(super) name: Cow<'static, str>,
    /// `None`: only if the other settings require it.
    pub(super) secure: Option<bool>,
    pub(super) domain: Option<Cow<'static, str>>,
    pub(super) path: Cow<'static, str>,
    pub(super) same_site: SameSite,
}

impl SessionCookieBuilder {
    /// Sets whether the browser sends it over HTTPS only. Take it from the configuration, not from
    /// the scheme of a request, which is `http` behind a proxy that ends TLS. It cannot be false
    /// for a name with a [prefix](Self) and for [`SameSite::None`]. Defaults to true for these, and
    /// to false otherwise.
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = Some(secure);
        self
    }

    /// Sets a domain whose every host receives the cookie: a host name in ASCII, such as
    /// `example.com`, of at most 253 characters. It has no scheme, port, path, wildcard, space,
    /// leading or trailing dot, and is no IP address. Defaults to none: only the host that set it
    /// receives the cookie.
    pub fn domain(mut self, domain: impl Into<Cow<'static, str>>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Sets the path under which the browser sends it: `/` and at most 1,023 more characters of
    /// printable ASCII without `;`. RFC 6265bis has browsers ignore longer attributes. Defaults to
    /// `/`.
    pub fn path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets which requests from other sites carry it. Defaults to [`SameSite::Lax`].
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Returns the cookie.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names a setting with which browsers would reject or misread the
    /// cookie.
    pub fn build(self) -> Result<SessionCookie, ConfigError> {
        self.check().map_err(|(name, was, may_be)| ConfigError::bad(name, was, may_be))?;
        Ok(SessionCookie {
            secure: self.secure.unwrap_or_else(|| self.requires_secure()),
            name: self.name,
            domain: self.domain,
            path: self.path,
            same_site: self.same_site,
        })
    }

    /// Returns the first setting that is not allowed, its value, and what is.
    fn check(&self) -> Result<(), (&'static str, &str, &'static str)> {
        let is_host_prefixed = has_prefix(&self.name, "__Host-");
        let name = |may_be| ("the name of SessionCookie::builder", &*self.name, may_be);
        if self.name.is_empty() || !self.name.bytes().all(is_token_char) {
            return Err(name(NAME));
        }
        if let Some(domain) = self.domain.as_deref() {
            let checked = if is_host_prefixed { Err(NO_DOMAIN) } else { check_domain(domain) };
            checked.map_err(|may_be| ("SessionCookieBuilder::domain", domain, may_be))?;
        }
        let path = |may_be| ("SessionCookieBuilder::path", &*self.path, may_be);
        if is_host_prefixed && self.path != "/" {
            return Err(path(ROOT));
        }
        let is_allowed = |b: u8| b != b';' && (b == b' ' || b.is_ascii_graphic());
        let is_too_long = self.path.len() > LONGEST_PATH;
        if !self.path.starts_with('/') || is_too_long || !self.path.bytes().all(is_allowed) {
            return Err(path(PATH));
        }
        if self.secure == Some(false) && self.requires_secure() {
            return Err(("SessionCookieBuilder::secure", "false", SECURE));
        }
        Ok(())
    }

    fn requires_secure(&self) -> bool {
        let prefixes = ["__Host-", "__Secure-", "__Http-"];
        self.same_site == SameSite::None
            || prefixes.iter().any(|prefix| has_prefix(&self.name, prefix))
    }
}

/// Browsers compare these prefixes without regard to case.
fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Browsers ignore an attribute whose value is longer (RFC 6265bis).
const LONGEST_PATH: usize = 1024;

const NAME: &str = "at least one of the ASCII letters, digits and !#$%&'*+-.^_`|~";
const PATH: &str = "at most 1,024 characters of printable ASCII without ;, beginning with /";
const SECURE: &str = "true, because browsers reject a cookie with SameSite=None or with the prefix \
    of its name that is not Secure";
const NO_DOMAIN: &str = "left out, because browsers reject a cookie with the prefix __Host- that \
    has a domain";
const ROOT: &str = "/, because browsers reject a cookie with the prefix __Host- that has another \
    path";

/// Returns what a domain may be, unless it is one. (Whether it is a public suffix is left to the
/// browser.)
fn check_domain(domain: &str) -> Result<(), &'static str> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !domain.bytes().all(is_allowed) {
        return Err(
            "a host name of ASCII letters, digits, - and _, such as example.com, without scheme, \
             port, path, wildcard or space (an international name as xn--…)",
        );
    }
    let mut labels = domain.split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if domain.len() > 253 || !labels.clone().all(is_label) {
        return Err(
            "parts of 1 to 63 characters between dots that neither begin nor end with -, 253 in \
             all, without a leading or trailing dot",
        );
    }
    if labels.all(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        return Err("a host name or left out, because an IP address has no subdomains");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &'static str) -> SessionCookieBuilder {
        SessionCookie::builder(name)
    }

    /// The error of a setting that is not allowed: its name, its value, and what is allowed.
    #[track_caller]
    fn refused(builder: SessionCookieBuilder) -> (&'static str, String, &'static str) {
        match builder.build() {
            Err(ConfigError::BadValue { name, was, may_be }) => (name, was, may_be),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn prefix_requires_what_browsers_do() {
        for (name, may_have_domain) in [
            ("__Secure-s", true),
            ("__secure-s", true),
            ("__Http-s", true),
            ("__HTTP-s", true),
            ("__Host-s", false),
            ("__Host-Http-s", false),
            ("__host-http-s", false),
        ] {
            assert!(named(name).build().unwrap().secure);
            assert_eq!(refused(named(name).secure(false)).0, "SessionCookieBuilder::secure");
            if may_have_domain {
                assert!(named(name).domain("example.com").path("/app").build().is_ok());
                continue;
            }
            assert_eq!(refused(named(name).domain("example.com")).2, NO_DOMAIN);
            assert_eq!(refused(named(name).path("/app")).2, ROOT);
        }
        assert!(named("s").same_site(SameSite::None).build().unwrap().secure);
        assert_eq!(refused(named("s").secure(false).same_site(SameSite::None)).2, SECURE);
        assert!(!named("s").build().unwrap().secure);
    }

    #[test]
    fn bad_name_is_refused() {
        for name in ["", "a b", "a;b", "a=b", "a\r\nb", "\u{e9}"] {
            let expected = ("the name of SessionCookie::builder", name.to_owned(), NAME);
            assert_eq!(refused(named(name)), expected);
        }
    }

    #[test]
    fn bad_path_is_refused() {
        let too_long = format!("/{}", "a".repeat(LONGEST_PATH));
        for path in ["", "app", "/a;b", "/a\r\nb", "/\u{e9}", &too_long] {
            let (name, was, may_be) = refused(named("s").path(path.to_owned()));
            assert_eq!((name, may_be), ("SessionCookieBuilder::path", PATH));
            assert!(path.starts_with(&was));
        }
    }

    #[test]
    fn bad_domain_is_refused() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for domain in [
            "",
            " ",
            ".",
            ".example.com",
            "example.com.",
            "a..example.com",
            "example.com:8080",
            "https://example.com",
            "//example.com",
            "example.com/app",
            "*.example.com",
            "user@example.com",
            "example.com, example.org",
            "exa mple.com",
            " example.com",
            "example.com\t",
            "a;b",
            "a\r\nb",
            "-a.example.com",
            "a-.example.com",
            "b\u{fc}cher.example",
            "127.0.0.1",
            "[::1]",
            "::1",
            &long_label,
            &long_name,
        ] {
            let (name, was, _) = refused(named("s").domain(domain.to_owned()));
            assert_eq!(name, "SessionCookieBuilder::domain");
            assert!(domain.starts_with(&was));
        }
        for domain in [
            "localhost",
            "example.com",
            "EXAMPLE.com",
            "a.b-c.example.co.uk",
            "my_app.example.com",
            "1.example.com",
            "xn--bcher-kva.example",
        ] {
            assert!(named("s").domain(domain).build().is_ok(), "{domain}");
        }
    }
}
