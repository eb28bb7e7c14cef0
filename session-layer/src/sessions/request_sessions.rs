//! All valid sessions of a request, and their end at a login or a logout.

use futures_util::future::join_all;
use smallvec::SmallVec;

use crate::engine::change::{Applied, Visibility};
use crate::engine::validation::Validation;
use crate::model::error::Error;
use crate::model::session::{NewSession, Session};
use crate::sessions::login::Login;
use crate::sessions::{Created, Sessions};

/// All valid sessions whose tokens a request sent, in its order. A login and a logout end all of
/// them: [`Login::create_replacing`], [`Sessions::revoke_presented`].
///
/// A browser sends several cookies of one name after the cookie's domain or path was changed. One
/// of them is the request's [`Session`]. If a logout ended only that session, the next request
/// would pass with another. Under [`.optional()`](crate::SessionCacheLayer::optional), the value
/// also holds valid sessions of different users. None of those is the request's `Session`.
///
/// The request's extensions contain it if a token was looked up. With the feature `axum` it is also
/// an extractor, which is empty if no token was looked up. No token is looked up if the request has
/// more than four cookies of the name.
#[derive(Debug, Clone, Default)]
pub struct RequestSessions {
    valid: SmallVec<[Session; 1]>,
    /// Whether a layer looked tokens up. No other code can create such a value.
    #[cfg_attr(not(feature = "axum"), expect(dead_code, reason = "the extractors read it"))]
    looked_up: bool,
}

impl RequestSessions {
    /// Collects the valid sessions.
    pub(crate) fn among(answers: &[Validation]) -> Self {
        let valid = answers.iter().filter_map(|answer| match answer {
            Validation::Valid(session) => Some(session.clone()),
            _ => None,
        });
        Self { valid: valid.collect(), looked_up: true }
    }

    /// Returns whether a layer has looked the tokens of the request up.
    #[cfg(feature = "axum")]
    pub(crate) fn come_from_a_look_up(&self) -> bool {
        self.looked_up
    }

    /// Returns the sessions, in the order of the request.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.valid.iter()
    }
}

impl Sessions {
    /// Ends all sessions whose tokens a request sent, as a logout does. `value` is the number of
    /// active sessions among them. `visibility` states when no node accepts any of them.
    ///
    /// # Errors
    /// As a [`Revocation`](crate::Revocation). Some of them may have ended. Calling it again is
    /// safe.
    pub async fn revoke_presented(&self, sent: &RequestSessions) -> Result<Applied<u64>, Error> {
        let revoking = sent.iter().map(|session| self.revoke(session.id()).into_future());
        let mut all = Applied { value: 0, visibility: Visibility::Nothing };
        for revoked in join_all(revoking).await {
            let revoked = revoked?;
            all.value += revoked.value;
            all.visibility = weakest(all.visibility, revoked.visibility);
        }
        Ok(all)
    }
}

impl Login {
    /// Ends the login with a session that replaces those whose tokens the request sent. These
    /// sessions end, whichever user they belong to. `visibility` is theirs, and
    /// [`Visibility::Nothing`] if there were none.
    ///
    /// Use it for every login from a browser, which replaces only one cookie. If the old sessions
    /// stayed valid, an attacker with a copy of a cookie could continue to use it. A second cookie
    /// of another user would also block the new session.
    ///
    /// Put the login route under an [optional](crate::SessionCacheLayer::optional) layer that reads
    /// the cookie, so that the request has its `RequestSessions`:
    ///
    /// ```
    /// # #[cfg(feature = "axum")] mod example {
    /// use axum::{Json, Router, extract::State, routing::post};
    /// use axum::{http::StatusCode, response::IntoResponse};
    /// use session_layer::{NewSession, RequestSessions, SessionCacheLayer, SessionCookie};
    /// use session_layer::{Sessions, TokenSource};
    /// # #[derive(serde::Deserialize)] struct Credentials { user: String }
    ///
    /// async fn log_in(
    ///     State(sessions): State<Sessions>,
    ///     sent: RequestSessions,
    ///     Json(credentials): Json<Credentials>,
    /// ) -> Result<impl IntoResponse, StatusCode> {
    ///     let outage = |_| StatusCode::SERVICE_UNAVAILABLE;
    ///     let login = sessions.begin_login().await.map_err(outage)?;
    ///     // … check the password …
    ///     let new = NewSession::new(credentials.user);
    ///     let created = login.create_replacing(&sent, new).await.map_err(outage)?.value;
    ///     let cookie = SessionCookie::host_prefixed();
    ///     Ok((cookie.issue(&created.token, &created.session), "welcome"))
    /// }
    ///
    /// fn routes(sessions: Sessions) -> Router {
    ///     let cookie = SessionCookie::host_prefixed();
    ///     let reads_cookies = SessionCacheLayer::new(sessions.clone())
    ///         .cookie(&cookie)
    ///         .sources([TokenSource::Cookie])
    ///         .optional();
    ///     Router::new()
    ///         .route("/login", post(log_in))
    ///         .route_layer(reads_cookies)
    ///         .with_state(sessions)
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns the errors of [`create`](Self::create) if there is no new session. The old sessions
    /// then stay active. Returns the errors of [`Sessions::revoke_presented`] if the old sessions
    /// could not be ended. The new session then exists, but no client has its token. In both cases
    /// the client keeps its cookie and may retry.
    pub async fn create_replacing(
        &self,
        sent: &RequestSessions,
        new: NewSession,
    ) -> Result<Applied<Created>, Error> {
        // In this order, a login that fails ends no session.
        let created = self.create(new).await?;
        let ended = self.sessions().revoke_presented(sent).await?;
        Ok(Applied { value: created, visibility: ended.visibility })
    }
}

/// Combines two visibilities into the weaker one, with the longer bounds.
fn weakest(one: Visibility, other: Visibility) -> Visibility {
    match (one, other) {
        (Visibility::Nothing, visibility) | (visibility, Visibility::Nothing) => visibility,
        (Visibility::Propagated, visibility) | (visibility, Visibility::Propagated) => visibility,
        (
            Visibility::Committed { within, at_most },
            Visibility::Committed { within: other_within, at_most: other_at_most },
        ) => Visibility::Committed {
            within: within.max(other_within),
            at_most: at_most.max(other_at_most),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn several_changes_have_the_weakest_visibility() {
        let committed = |within, at_most| Visibility::Committed {
            within: Duration::from_secs(within),
            at_most: Duration::from_secs(at_most),
        };
        for (one, other, expected) in [
            (Visibility::Nothing, Visibility::Nothing, Visibility::Nothing),
            (Visibility::Nothing, Visibility::Propagated, Visibility::Propagated),
            (Visibility::Propagated, committed(2, 302), committed(2, 302)),
            (Visibility::Nothing, committed(2, 302), committed(2, 302)),
            (committed(1, 302), committed(2, 300), committed(2, 302)),
        ] {
            assert_eq!(weakest(one, other), expected);
            assert_eq!(weakest(other, one), expected);
        }
    }
}
