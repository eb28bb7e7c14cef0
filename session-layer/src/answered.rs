//! What the layer adds to an answer on its way out: [`Answered`], a cookie that now ends later, and the
//! headers that caches, proxies and browsers' developer tools read.

use std::time::Duration;

use http::header::{CACHE_CONTROL, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::cookie::SetCookie;
use crate::validate::Tier;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How the request's token was looked up. It is in the response's extensions if there was one to look
/// up, whatever the answer; for tracing, and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered {
    /// Who gave the answer.
    pub tier: Tier,
    /// The cache was to be asked and could not be.
    pub degraded: bool,
    /// How long the look-up took.
    pub elapsed: Duration,
}

/// What is to be added to one answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finish {
    /// `Vary` and `Cache-Control`.
    pub(crate) cache_headers: bool,
    pub(crate) server_timing: bool,
    /// Set once a token was looked up.
    pub(crate) answered: Option<Answered>,
    /// Set where the request's session now ends later.
    pub(crate) cookie: Option<CookieAgain>,
}

/// The cookie a request came with, to be sent again.
#[derive(Debug, Clone)]
pub(crate) struct CookieAgain {
    pub(crate) name: String,
    pub(crate) field: SetCookie,
}

impl CookieAgain {
    /// The handler knows better: it has rotated the token, or logged out. And what many clients may be
    /// given must not have one's token in it.
    fn append_to(self, headers: &mut HeaderMap) {
        let is_of_this_name = |field: &HeaderValue| {
            let rest = field.as_bytes().strip_prefix(self.name.as_bytes());
            rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
        };
        if !headers.get_all(SET_COOKIE).iter().any(is_of_this_name) && is_for_one(headers) {
            self.field.append_to(headers);
        }
    }
}

impl Finish {
    pub(crate) fn apply<B>(self, response: &mut Response<B>) {
        let headers = response.headers_mut();
        if self.cache_headers {
            vary(headers);
            // A shared cache must not give one user's page to another. Who knows better says so.
            headers
                .entry(CACHE_CONTROL)
                .or_insert(HeaderValue::from_static("private"));
        }
        if let Some(cookie) = self.cookie {
            cookie.append_to(headers);
        }
        let Some(answered) = self.answered else {
            return;
        };
        if self.server_timing {
            let millis = answered.elapsed.as_secs_f64() * 1000.0;
            let entry = format!(
                "session;desc=\"{}\";dur={millis:.2}",
                answered.tier.as_str()
            );
            // Always a header value: digits, letters and punctuation.
            if let Ok(entry) = HeaderValue::try_from(entry) {
                headers.append(SERVER_TIMING, entry);
            }
        }
        // Of nested layers the inner one decided, so its account stays.
        let extensions = response.extensions_mut();
        if extensions.get::<Answered>().is_none() {
            extensions.insert(answered);
        }
    }
}

/// Does the answer say itself that no cache which several clients share may keep it?
fn is_for_one(headers: &HeaderMap) -> bool {
    let directives = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .flat_map(|field| field.as_bytes().split(|b| *b == b','));
    directives.map(<[u8]>::trim_ascii).any(|directive| {
        let end = directive.iter().position(|b| *b == b'=');
        let name = directive[..end.unwrap_or(directive.len())].trim_ascii_end();
        name.eq_ignore_ascii_case(b"private") || name.eq_ignore_ascii_case(b"no-store")
    })
}

/// Adds what is missing of `Authorization, Cookie` to what the answer varies by already.
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

    const LOOKED_UP: Answered = Answered {
        tier: Tier::Cache,
        degraded: false,
        elapsed: Duration::from_micros(310),
    };

    fn all(response: &Response<()>, name: HeaderName) -> Vec<&str> {
        let fields = response.headers().get_all(name);
        fields.iter().map(|field| field.to_str().unwrap()).collect()
    }

    #[test]
    fn vary_is_completed_and_never_doubled() {
        for (there, expected) in [
            (vec![], vec!["Authorization, Cookie"]),
            (vec!["Accept"], vec!["Accept", "Authorization, Cookie"]),
            (
                vec!["accept,cookie"],
                vec!["accept,cookie", "Authorization"],
            ),
            (vec!["AUTHORIZATION"], vec!["AUTHORIZATION", "Cookie"]),
            (
                vec!["Cookie", "x, Authorization"],
                vec!["Cookie", "x, Authorization"],
            ),
            (vec!["*"], vec!["*"]),
            (vec!["Accept", "x , * "], vec!["Accept", "x , * "]),
            (vec!["Cookies"], vec!["Cookies", "Authorization, Cookie"]),
        ] {
            let mut response = Response::new(());
            for field in there {
                response
                    .headers_mut()
                    .append(VARY, HeaderValue::from_static(field));
            }
            let finish = Finish {
                cache_headers: true,
                ..Finish::default()
            };
            for _nested in 0..2 {
                finish.clone().apply(&mut response);
            }
            assert_eq!(all(&response, VARY), expected);
            assert_eq!(all(&response, CACHE_CONTROL), ["private"]);
        }
    }

    #[test]
    fn what_the_application_said_stays() {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=5"));
        let finish = Finish {
            cache_headers: true,
            server_timing: true,
            answered: Some(LOOKED_UP),
            cookie: None,
        };
        finish.apply(&mut response);
        assert_eq!(all(&response, CACHE_CONTROL), ["public"]);
        assert_eq!(
            all(&response, SERVER_TIMING),
            ["db;dur=5", "session;desc=\"hit\";dur=0.31"]
        );
        assert_eq!(response.extensions().get(), Some(&LOOKED_UP));
    }

    #[test]
    fn nothing_is_added_where_nothing_is_to_be() {
        let mut response = Response::new(());
        let finish = Finish {
            server_timing: true,
            ..Finish::default()
        };
        finish.apply(&mut response);
        assert!(response.headers().is_empty() && response.extensions().is_empty());
    }

    #[test]
    fn a_cookie_is_sent_again_where_neither_handler_nor_cache_is_against_it() {
        let again = || CookieAgain {
            name: "session".to_owned(),
            field: crate::cookie::SessionCookie::new().clear(),
        };
        let private = (CACHE_CONTROL, "private");
        for (there, expected) in [
            (vec![private.clone()], 1),
            (vec![private.clone(), (SET_COOKIE, "theme=dark")], 2),
            (vec![private.clone(), (SET_COOKIE, "sessions=x")], 2),
            (
                vec![
                    private.clone(),
                    (SET_COOKIE, "theme=dark"),
                    (SET_COOKIE, "session=new"),
                ],
                2,
            ),
            (vec![private, (SET_COOKIE, "session =; Max-Age=0")], 1),
            (vec![(CACHE_CONTROL, "no-store")], 1),
            (vec![(CACHE_CONTROL, "max-age=60, PRIVATE")], 1),
            (vec![], 0),
            (vec![(CACHE_CONTROL, "max-age=60")], 0),
            (vec![(CACHE_CONTROL, "max-age=60, public")], 0),
            (
                vec![
                    (CACHE_CONTROL, "no-cache"),
                    (CACHE_CONTROL, "s-maxage = 60"),
                ],
                0,
            ),
        ] {
            let mut response = Response::new(());
            for (name, field) in &there {
                let field = HeaderValue::from_static(field);
                response.headers_mut().append(name, field);
            }
            let finish = Finish {
                cookie: Some(again()),
                ..Finish::default()
            };
            finish.apply(&mut response);
            assert_eq!(all(&response, SET_COOKIE).len(), expected, "{there:?}");
        }
    }

    #[test]
    fn of_nested_layers_the_inner_account_stays() {
        let mut response = Response::new(());
        let outer = Answered {
            tier: Tier::Store,
            ..LOOKED_UP
        };
        for answered in [LOOKED_UP, outer] {
            let answered = Some(answered);
            Finish {
                answered,
                ..Finish::default()
            }
            .apply(&mut response);
        }
        assert_eq!(response.extensions().get(), Some(&LOOKED_UP));
    }
}
