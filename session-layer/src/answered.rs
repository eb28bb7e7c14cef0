//! What the layer adds to an answer on its way out: [`Answered`], and the headers that caches,
//! proxies and browsers' developer tools read.

use std::time::Duration;

use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

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
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Finish {
    /// `Vary` and `Cache-Control`.
    pub(crate) cache_headers: bool,
    pub(crate) server_timing: bool,
    /// Set once a token was looked up.
    pub(crate) answered: Option<Answered>,
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
