//! [`SessionCacheService`]: what becomes of a request.
//!
//! 1. A `Session` that somebody put into the request's extensions is dropped.
//! 2. Skipped requests and CORS preflights pass, unguarded.
//! 3. What the request presents is extracted; a malformed Bearer token is 400.
//! 4. Nothing presented: 401, or on without a session where it is optional.
//! 5. Else it is looked up, and [`judge`] turns the answers into a session or a rejection.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::request::Parts;
use http::{Method, Request, Response};
use tower_service::Service;

use crate::answered::{CookieAgain, Finish};
use crate::body::ResponseBody;
use crate::extract::{Extracted, TokenSource, extract, presented_in_cookie};
use crate::future::{ResponseFuture, Waiting};
use crate::layer::Config;
use crate::presented::PresentedSessions;
use crate::reject::Rejection;
use crate::session::{Session, SessionId};
use crate::token::TokenDigest;
use crate::validate::{Answers, Tier, Validation};

/// A service guarded by a [`SessionCacheLayer`](crate::SessionCacheLayer), which says what it does.
///
/// The inner service's error type stays as it is: a rejection is a response. It must be `Clone`, since
/// the one that was polled ready is moved into the future while the token is looked up.
#[derive(Debug, Clone)]
pub struct SessionCacheService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> SessionCacheService<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SessionCacheService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        parts.extensions.remove::<Session>();
        parts.extensions.remove::<PresentedSessions>();
        let next = self.config.triage(&parts);
        let guarded = !matches!(next, Next::Pass(Mark::Skipped | Mark::Preflight));
        let finish = self.config.finish(guarded);
        match next {
            Next::Pass(mark) => {
                parts.extensions.insert(mark);
                let request = Request::from_parts(parts, body);
                ResponseFuture::calling(self.inner.call(request), finish)
            }
            Next::Reject(rejection) => {
                ResponseFuture::rejecting(self.config.reject(&parts, rejection), finish)
            }
            Next::LookUp(digests) => {
                parts.extensions.insert(Mark::Guarded);
                let look_up = self.config.sessions.look_up(digests);
                // `poll_ready` made *this* inner service ready, and a clone need not be: a permit, a
                // slot in a buffer is held by one instance. So the future takes the ready one, and what
                // stays behind is the clone, which will be polled before it is called.
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                let waiting = Waiting {
                    parts,
                    body,
                    ready,
                    config: Arc::clone(&self.config),
                    since: Instant::now(),
                };
                ResponseFuture::validating(look_up, waiting, finish)
            }
        }
    }
}

/// What the layer leaves in a request's extensions, so that the extractors can tell "no session" from
/// "nobody looked".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It was looked for a session; required or optional makes no difference from here on.
    Guarded,
    /// A CORS preflight, which has none.
    Preflight,
    /// The layer was told not to look.
    Skipped,
}

/// What to do with a request, as far as it alone tells.
enum Next {
    Pass(Mark),
    Reject(Rejection),
    LookUp(Vec<TokenDigest>),
}

impl Config {
    fn triage(&self, parts: &Parts) -> Next {
        if self.skip.as_ref().is_some_and(|skip| skip(parts)) {
            return Next::Pass(Mark::Skipped);
        }
        if self.preflight && is_preflight(parts) {
            return Next::Pass(Mark::Preflight);
        }
        let digest = |presented: &str| self.sessions.digest(presented);
        match extract(&parts.headers, &self.sources, digest) {
            Extracted::Candidates(digests) => Next::LookUp(digests),
            Extracted::Malformed => Next::Reject(Rejection::BadRequest),
            Extracted::Nothing if self.optional => Next::Pass(Mark::Guarded),
            Extracted::Nothing => Next::Reject(Rejection::Unauthorized),
        }
    }

    fn finish(&self, guarded: bool) -> Finish {
        Finish {
            cache_headers: guarded && self.cache_headers,
            server_timing: self.server_timing,
            ..Finish::default()
        }
    }

    /// The cookie with its new end, if it is the one this token was presented in, and says when it ends.
    pub(crate) fn cookie_again(
        &self,
        parts: &Parts,
        session: &Session,
        prolonged: &[(SessionId, TokenDigest)],
    ) -> Option<CookieAgain> {
        let (_, wanted) = prolonged.iter().find(|(id, _)| *id == session.id())?;
        let cookie = &self.cookie;
        let is_ours = |source: &TokenSource| matches!(source, TokenSource::Cookie(name) if name == cookie.name());
        if !session.is_persistent() || !self.sources.iter().any(is_ours) {
            return None;
        }
        let digest = |presented: &str| self.sessions.digest(presented);
        let token = presented_in_cookie(&parts.headers, cookie.name(), *wanted, digest)?;
        Some(CookieAgain {
            name: cookie.name().to_owned(),
            field: cookie.keep(token, session),
        })
    }

    /// The answer to a rejected request.
    pub(crate) fn reject(&self, parts: &Parts, rejection: Rejection) -> Response<Bytes> {
        // Neither the path nor any header: both are the application's, and may hold secrets.
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

/// A question a browser asks by itself, before the request proper and without its cookies.
fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Turns the answers to all that was presented into one, and says who gave it.
///
/// A valid token counts, whatever is said of the others: one that nobody could answer proves
/// nothing against it. Valid ones of two users are nobody's. Without a valid one, a single
/// "nobody could say" makes it an outage: it may have been the valid one.
pub(crate) fn judge(answers: Answers) -> (Result<Session, Rejection>, Tier) {
    let mut valid: Option<Session> = None;
    let mut unsaid = false;
    for validation in answers.validations {
        match (validation, &valid) {
            (Validation::Valid(session), None) => valid = Some(session),
            (Validation::Valid(session), Some(first)) if session.user_id() != first.user_id() => {
                return (Err(Rejection::Unauthorized), answers.tier);
            }
            (Validation::Valid(_) | Validation::Invalid, _) => {}
            (Validation::Unavailable, _) => unsaid = true,
        }
    }
    match (valid, answers.tier) {
        // The store was asked about the others and did not answer: this one came from the cache.
        (Some(session), Tier::Nobody) => (Ok(session), Tier::Cache),
        (Some(session), tier) => (Ok(session), tier),
        (None, tier) if unsaid => (Err(Rejection::Unavailable), tier),
        (None, tier) => (Err(Rejection::Unauthorized), tier),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::session::{SessionParts, data_to_json};

    fn valid(user: &str, id: u8) -> Validation {
        let at = Timestamp::from_micros(0);
        let parts = SessionParts {
            id: SessionId::from_bytes([id; 16]),
            user_id: user.to_owned(),
            version: 1,
            created_at: at,
            authenticated_at: at,
            last_seen_at: at,
            expires_at: at,
            idle_timeout: None,
            persistent: false,
            data: data_to_json(()).unwrap(),
        };
        Validation::Valid(parts.into())
    }

    #[test]
    fn many_answers_become_one() {
        let (alice, invalid, unsaid) = (
            |id| valid("alice", id),
            Validation::Invalid,
            Validation::Unavailable,
        );
        let unauthorized = Err(Rejection::Unauthorized);
        let unavailable = Err(Rejection::Unavailable);
        for (validations, tier, expected) in [
            (vec![alice(1)], Tier::Cache, (Ok(1), Tier::Cache)),
            (
                vec![invalid.clone()],
                Tier::Store,
                (unauthorized, Tier::Store),
            ),
            (
                vec![unsaid.clone()],
                Tier::Nobody,
                (unavailable, Tier::Nobody),
            ),
            (
                vec![invalid.clone(), alice(2)],
                Tier::Store,
                (Ok(2), Tier::Store),
            ),
            (vec![alice(1), alice(2)], Tier::Cache, (Ok(1), Tier::Cache)),
            (
                vec![alice(1), valid("bob", 2)],
                Tier::Store,
                (unauthorized, Tier::Store),
            ),
            (
                vec![unsaid.clone(), alice(3)],
                Tier::Nobody,
                (Ok(3), Tier::Cache),
            ),
            (
                vec![invalid.clone(), unsaid.clone()],
                Tier::Nobody,
                (unavailable, Tier::Nobody),
            ),
            (
                vec![invalid.clone(), invalid],
                Tier::Store,
                (unauthorized, Tier::Store),
            ),
            (
                vec![alice(1), unsaid, valid("bob", 2)],
                Tier::Nobody,
                (unauthorized, Tier::Nobody),
            ),
        ] {
            let what = format!("{validations:?}");
            let degraded = false;
            let (verdict, said) = judge(Answers {
                validations,
                tier,
                degraded,
                prolonged: Vec::new(),
            });
            let verdict = verdict.map(|session| session.id().as_bytes()[0]);
            assert_eq!((verdict, said), expected, "{what}");
        }
    }
}
