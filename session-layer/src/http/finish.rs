//! The additions to a response: [`LookupInfo`], the renewed cookie, and header fields for caches,
//! proxies and browsers' developer tools.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CACHE_CONTROL, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::engine::validation::Source;
use crate::http::caching::{self, SharedCaches};
use crate::http::cookie::SetCookie;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The result of a request's token look-up, for tracing and tests. With
/// [`SessionCacheLayer::lookup_info`](crate::SessionCacheLayer::lookup_info), the response's
/// extensions contain it, with any status, if there was a token to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupInfo {
    /// The source of the verdict.
    pub source: Source,
    /// Whether the cache was needed but could not be queried.
    pub degraded: bool,
    /// The duration of the look-up.
    pub elapsed: Duration,
}

/// The additions to one response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finish {
    pub(crate) cache_headers: bool,
    pub(crate) server_timing: bool,
    pub(crate) lookup_info: bool,
    pub(crate) cookie_name: Cow<'static, str>,
    pub(crate) answered: Option<LookupInfo>,
    /// The request's cookie with a new `Max-Age`, if its renewal is due.
    pub(crate) renewal: Option<SetCookie>,
}

impl Finish {
    pub(crate) fn apply<B>(self, response: &mut Response<B>) {
        let headers = response.headers_mut();
        if self.cache_headers {
            vary(headers);
            // A shared cache must not serve one user's page to another. An application can override
            // this by setting the field itself.
            headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        }
        if sets_cookie(headers, &self.cookie_name) {
            // The handler has logged in, rotated the token or logged out. Its cookie stays.
            if self.cache_headers {
                caching::forbid(headers);
            }
        } else if let Some(renewal) = self.renewal {
            // The renewal stays due and need not override the application's fields.
            let may_carry = match caching::shared_caches(headers) {
                SharedCaches::Forbidden => true,
                SharedCaches::Unstated => self.cache_headers,
                SharedCaches::Permitted => false,
            };
            if may_carry {
                renewal.append_to(headers);
            }
        }
        let Some(answered) = self.answered else {
            return;
        };
        if self.server_timing {
            let millis = answered.elapsed.as_secs_f64() * 1000.0;
            let entry = format!("session;desc=\"{}\";dur={millis:.2}", answered.source.as_str());
            // The entry is always a header value: digits, letters and punctuation.
            if let Ok(entry) = HeaderValue::try_from(entry) {
                headers.append(SERVER_TIMING, entry);
            }
        }
        // The inner one of nested layers decided. Its result stays.
        let extensions = response.extensions_mut();
        if self.lookup_info && extensions.get::<LookupInfo>().is_none() {
            extensions.insert(answered);
        }
    }
}

/// Returns whether a `Set-Cookie` field sets the cookie of this name.
fn sets_cookie(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(SET_COOKIE).iter().any(|field| {
        let rest = field.as_bytes().strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
    })
}

/// Adds `Authorization` and `Cookie` to the response's `Vary` fields if they are missing.
fn vary(headers: &mut HeaderMap) {
    let has = |wanted: &[u8]| {
        headers
            .get_all(VARY)
            .iter()
            .flat_map(|field| field.as_bytes().split(|b| *b == b','))
            .map(<[u8]>::trim_ascii)
            .any(|name| name == b"*" || name.eq_ignore_ascii_case(wanted))
    };
    let missing = match (has(b"authorization"), has(b"cookie")) {
        (false, false) => "Authorization, Cookie",
        (false, true) => "Authorization",
        (true, false) => "Cookie",
        (true, true) => return,
    };
    headers.append(VARY, HeaderValue::from_static(missing));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::cookie::SessionCookie;

    const LOOKED_UP: LookupInfo =
        LookupInfo { source: Source::Cache, degraded: false, elapsed: Duration::from_micros(310) };

    fn all(response: &Response<()>, name: HeaderName) -> Vec<&str> {
        let fields = response.headers().get_all(name);
        fields.iter().map(|field| field.to_str().unwrap()).collect()
    }

    #[test]
    fn vary_is_completed_without_duplicates() {
        for (there, expected) in [
            (vec![], vec!["Authorization, Cookie"]),
            (vec!["Accept"], vec!["Accept", "Authorization, Cookie"]),
            (vec!["accept,cookie"], vec!["accept,cookie", "Authorization"]),
            (vec!["AUTHORIZATION"], vec!["AUTHORIZATION", "Cookie"]),
            (vec!["Cookie", "x, Authorization"], vec!["Cookie", "x, Authorization"]),
            (vec!["*"], vec!["*"]),
            (vec!["Accept", "x , * "], vec!["Accept", "x , * "]),
            (vec!["Cookies"], vec!["Cookies", "Authorization, Cookie"]),
        ] {
            let mut response = Response::new(());
            for field in there {
                response.headers_mut().append(VARY, HeaderValue::from_static(field));
            }
            let finish = Finish { cache_headers: true, ..Finish::default() };
            for _nested in 0..2 {
                finish.clone().apply(&mut response);
            }
            assert_eq!(all(&response, VARY), expected);
            assert_eq!(all(&response, CACHE_CONTROL), ["private"]);
        }
    }

    #[test]
    fn fields_of_the_application_are_kept() {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=5"));
        let finish = Finish {
            cache_headers: true,
            server_timing: true,
            lookup_info: true,
            answered: Some(LOOKED_UP),
            ..Finish::default()
        };
        finish.apply(&mut response);
        assert_eq!(all(&response, CACHE_CONTROL), ["public"]);
        assert_eq!(all(&response, SERVER_TIMING), ["db;dur=5", "session;desc=\"hit\";dur=0.31"]);
        assert_eq!(response.extensions().get(), Some(&LOOKED_UP));
    }

    #[test]
    fn lookup_info_is_off_by_default() {
        let mut response = Response::new(());
        Finish { answered: Some(LOOKED_UP), ..Finish::default() }.apply(&mut response);
        assert!(response.extensions().is_empty());
    }

    #[test]
    fn response_without_look_up_is_unchanged() {
        let mut response = Response::new(());
        let finish = Finish { server_timing: true, ..Finish::default() };
        finish.apply(&mut response);
        assert!(response.headers().is_empty() && response.extensions().is_empty());
    }

    /// Creates the additions to a response whose cookie is to be renewed.
    fn renewing(cache_headers: bool) -> Finish {
        Finish {
            cache_headers,
            cookie_name: "session".into(),
            renewal: Some(SessionCookie::new().clear()),
            ..Finish::default()
        }
    }

    /// Returns the number of renewals and the `Cache-Control` of a response with these fields.
    fn renewed(fields: &[(HeaderName, &'static str)], finish: Finish) -> (usize, String) {
        let mut response = Response::new(());
        for (name, field) in fields {
            let field = HeaderValue::from_static(field);
            response.headers_mut().append(name, field);
        }
        finish.apply(&mut response);
        let renewals = all(&response, SET_COOKIE).len()
            - fields.iter().filter(|(name, _)| *name == SET_COOKIE).count();
        (renewals, all(&response, CACHE_CONTROL).join(", "))
    }

    #[test]
    fn renewal_is_sent_only_where_shared_caches_cannot_store() {
        let cdn = HeaderName::from_static("cdn-cache-control");
        for (fields, renewals, cache_control) in [
            (vec![], 1, "private"),
            (vec![(CACHE_CONTROL, "private")], 1, "private"),
            (vec![(CACHE_CONTROL, "no-store")], 1, "no-store"),
            (vec![(CACHE_CONTROL, "no-cache")], 1, "no-cache, private"),
            (vec![(CACHE_CONTROL, "max-age=60")], 1, "max-age=60, private"),
            (vec![(CACHE_CONTROL, "public")], 0, "public"),
            (vec![(CACHE_CONTROL, "s-maxage=60")], 0, "s-maxage=60"),
            (vec![(CACHE_CONTROL, "private=\"x\"")], 0, "private=\"x\""),
            (vec![(cdn.clone(), "max-age=60")], 0, "private"),
            (vec![(SET_COOKIE, "theme=dark")], 1, "private"),
            (vec![(SET_COOKIE, "sessions=x")], 1, "private"),
        ] {
            let expected = (renewals, cache_control.to_owned());
            assert_eq!(renewed(&fields, renewing(true)), expected, "{fields:?}");
        }
        // With `cache_headers` off, the layer does not change the application's Cache-Control.
        for (fields, renewals, cache_control) in [
            (vec![], 0, ""),
            (vec![(CACHE_CONTROL, "no-cache")], 0, "no-cache"),
            (vec![(CACHE_CONTROL, "private")], 1, "private"),
        ] {
            let expected = (renewals, cache_control.to_owned());
            assert_eq!(renewed(&fields, renewing(false)), expected, "{fields:?}");
        }
    }

    #[test]
    fn handlers_session_cookie_is_not_renewed_and_not_stored() {
        let surrogate = HeaderName::from_static("surrogate-control");
        for handlers in ["session=new", "session =; Max-Age=0"] {
            for (field, kept) in [
                ((CACHE_CONTROL, "no-store"), "no-store"),
                ((CACHE_CONTROL, "no-cache"), "no-cache, private"),
                ((CACHE_CONTROL, "public, max-age=60"), "private"),
                ((surrogate.clone(), "max-age=60"), "private"),
            ] {
                let fields = [(SET_COOKIE, "theme=dark"), (SET_COOKIE, handlers), field];
                let expected = (0, kept.to_owned());
                assert_eq!(renewed(&fields, renewing(true)), expected, "{fields:?}");
            }
        }
    }

    #[test]
    fn nested_layers_keep_the_inner_look_up_info() {
        let mut response = Response::new(());
        let outer = LookupInfo { source: Source::Store, ..LOOKED_UP };
        for answered in [LOOKED_UP, outer] {
            let answered = Some(answered);
            Finish { lookup_info: true, answered, ..Finish::default() }.apply(&mut response);
        }
        assert_eq!(response.extensions().get(), Some(&LOOKED_UP));
    }
}
