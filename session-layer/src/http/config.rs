//! The configuration of a layer, and what it decides from a request's headers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::http::cookie::{SessionCookie, SetCookie};
use crate::http::extract::{Extracted, TokenSource, extract, sends_token, sent_in_cookie};
use crate::http::finish::Finish;
use crate::http::reject::Rejection;
use crate::model::session::{Session, SessionId};
use crate::model::token::{Digests, TokenDigest};
use crate::sessions::Sessions;

type Skip = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;
type OnReject = Arc<dyn Fn(&Parts, &Rejection) -> Response<Bytes> + Send + Sync>;

/// The configuration that a layer shares with its services.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) sessions: Sessions,
    pub(crate) optional: bool,
    pub(crate) sources: Vec<TokenSource>,
    pub(crate) cookie: SessionCookie,
    pub(crate) skip: Option<Skip>,
    pub(crate) on_reject: Option<OnReject>,
    pub(crate) pass_preflights: bool,
    pub(crate) server_timing: bool,
    pub(crate) lookup_info: bool,
    pub(crate) cache_headers: bool,
}

/// The mark of the layer in the extensions of a request of which it looked no token up. It lets the
/// extractors distinguish a request without a session from one that no layer validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A request without a session. Extractors need not know whether one was required.
    Guarded {
        /// The same as in [`Rejection::Unauthorized`].
        token_sent: bool,
    },
    /// A CORS preflight that the layer is configured to pass. It has no session.
    Preflight {
        /// The same as in [`Rejection::Unauthorized`].
        token_sent: bool,
    },
    /// A request that the layer is configured to skip.
    Skipped,
}

/// The next step of a request, from its headers alone.
pub(crate) enum Next {
    Pass(Mark),
    AnswerPreflight,
    Reject(Rejection),
    LookUp(Digests),
}

impl Config {
    /// Returns the defaults: a session is required.
    pub(crate) fn new(sessions: Sessions) -> Self {
        Self {
            sessions,
            optional: false,
            sources: vec![TokenSource::Bearer, TokenSource::Cookie],
            cookie: SessionCookie::new(),
            skip: None,
            on_reject: None,
            pass_preflights: false,
            server_timing: false,
            lookup_info: false,
            cache_headers: true,
        }
    }

    /// Decides the next step of a request from its headers.
    pub(crate) fn triage(&self, parts: &Parts) -> Next {
        if self.skip.as_ref().is_some_and(|skip| skip(parts)) {
            return Next::Pass(Mark::Skipped);
        }
        // If sessions are optional, the inner service serves requests without a session anyway.
        if !self.optional && is_preflight(parts) {
            return if self.pass_preflights {
                let token_sent = sends_token(&parts.headers, &self.sources, &self.cookie);
                Next::Pass(Mark::Preflight { token_sent })
            } else {
                Next::AnswerPreflight
            };
        }
        let digest = |sent: &str| self.sessions.digest(sent);
        match extract(&parts.headers, &self.sources, &self.cookie, digest) {
            Extracted::Candidates(digests) => Next::LookUp(digests),
            Extracted::Malformed => Next::Reject(Rejection::BadRequest),
            Extracted::Nothing => self.without_session(false),
            Extracted::NoToken | Extracted::TooMany => self.without_session(true),
        }
    }

    /// Decides about a request without a token to look up.
    fn without_session(&self, token_sent: bool) -> Next {
        if self.optional {
            Next::Pass(Mark::Guarded { token_sent })
        } else {
            Next::Reject(Rejection::Unauthorized { token_sent })
        }
    }

    /// Returns what the layer adds to the response.
    pub(crate) fn finish(&self, guarded: bool) -> Finish {
        Finish {
            cache_headers: guarded && self.cache_headers,
            server_timing: self.server_timing,
            lookup_info: self.lookup_info,
            cookie_name: self.cookie.shared_name(),
            ..Finish::default()
        }
    }

    /// Returns the request's cookie with a new `Max-Age`, if its renewal is due.
    pub(crate) fn renewal(
        &self,
        parts: &Parts,
        session: &Session,
        due: &[(SessionId, TokenDigest)],
    ) -> Option<SetCookie> {
        let (_, wanted) = due.iter().find(|(id, _)| *id == session.id())?;
        let cookie = &self.cookie;
        let reads_it = |source: &TokenSource| source.cookie_name(cookie) == Some(cookie.name());
        if !self.sources.iter().any(reads_it) {
            return None;
        }
        let digest = |sent: &str| self.sessions.digest(sent);
        let token = sent_in_cookie(&parts.headers, cookie.name(), *wanted, digest)?;
        Some(cookie.keep(token, session))
    }

    /// Creates the response to a rejected request.
    pub(crate) fn reject(&self, parts: &Parts, rejection: Rejection) -> Response<Bytes> {
        // Path and headers are not logged, because they may hold the application's secrets.
        tracing::debug!(
            status = rejection.status().as_u16(),
            reason = %rejection,
            "request rejected by the session layer"
        );
        let mut response = match &self.on_reject {
            Some(answer) => answer(parts, &rejection),
            None => rejection.response(),
        };
        response.extensions_mut().insert(rejection);
        response
    }
}

/// Creates the response to a CORS preflight that does not reach the inner service. Without CORS
/// headers, a browser treats it as "not allowed".
pub(crate) fn preflight_answer() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Returns whether the request is a CORS preflight, which browsers send without cookies.
fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("optional", &self.optional)
            .field("sources", &self.sources)
            .field("cookie", &self.cookie)
            .field("skip", &self.skip.is_some())
            .field("on_reject", &self.on_reject.is_some())
            .field("pass_preflights", &self.pass_preflights)
            .field("server_timing", &self.server_timing)
            .field("lookup_info", &self.lookup_info)
            .field("cache_headers", &self.cache_headers)
            .finish_non_exhaustive()
    }
}
