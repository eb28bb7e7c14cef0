//! [`Sessions`]: the handle that applications hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::coop;

pub(crate) mod builder;
pub(crate) mod env;
mod erased;
pub(crate) mod login;
pub(crate) mod probe;
#[cfg(feature = "metrics")]
pub(crate) mod publisher;
pub(crate) mod request_sessions;
pub(crate) mod revocation;

use self::erased::AnyEngine;
pub(crate) use self::erased::Boxed;
use crate::cache::{CacheStatus, SessionCache};
use crate::engine::Engine;
use crate::engine::breaker::BreakerState;
use crate::engine::cache_mode::CacheMode;
use crate::engine::change::Applied;
use crate::engine::metrics::Metrics;
use crate::engine::validation::{Answers, Validation};
use crate::model::error::Error;
use crate::model::session::{
    LIST_PAGE, ListCursor, LoginSnapshot, NewSession, Session, SessionPage, check_user_id,
    data_to_json,
};
use crate::model::token::{
    AsToken, Digests, MAX_TOKEN_BYTES, SessionToken, TokenDigest, TokenError, TokenScheme,
};
use crate::sessions::probe::Probing;
use crate::sessions::revocation::{Revocation, RevokeTarget};
use crate::store::{Creation, RevocationNote, SessionStore};

/// The handle that creates, validates and ends sessions. It is cheap to clone, and all clones share
/// one state.
///
/// It has no type parameters, so that an application's state can name it. [`Sessions::builder`]
/// creates it from a cache and a store, and [`Sessions::from_env`] from the environment.
///
/// It spawns tasks and must therefore be used within a Tokio runtime. Every change continues to its
/// end even if its future is dropped.
#[derive(Clone)]
pub struct Sessions {
    pub(crate) engine: Arc<dyn AnyEngine>,
    scheme: Arc<dyn TokenScheme>,
    ttl: Duration,
    pub(crate) probing: Arc<Probing>,
}

/// A new session and its token.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Created {
    /// The token to send to the client. It is stored nowhere and cannot be read again.
    pub token: SessionToken,
    /// The session.
    pub session: Session,
}

/// A session after the rotation of its token.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rotated {
    /// The new token to send to the client. It is stored nowhere and cannot be read again.
    pub token: SessionToken,
    /// The session, which has the same id as before.
    pub session: Session,
}

impl Sessions {
    pub(crate) fn new<C: SessionCache, S: SessionStore>(
        engine: Arc<Engine<C, S>>,
        scheme: Arc<dyn TokenScheme>,
    ) -> Self {
        let ttl = engine.settings.ttl;
        Self { engine, scheme, ttl, probing: Arc::default() }
    }

    /// Creates a session at the end of a login.
    ///
    /// A revocation of [all of the user's sessions](RevokeTarget::user) also rejects logins that
    /// are in flight. This login is in flight from the moment at which Postgres receives it. If the
    /// application checks a password before this call, it must [begin the login](Self::begin_login)
    /// before the check. The login is then in flight from there.
    ///
    /// # Errors
    /// - [`Error::Input`] if a value exceeds a limit.
    /// - [`Error::LoginSuperseded`] if all of the user's sessions were revoked during the login.
    /// - [`Error::Unavailable`] in an outage of Postgres: nothing was created.
    /// - [`Error::Unknown`] if the reply of Postgres was lost. A session may exist, but no client
    ///   has its token.
    /// - [`Error::Random`] if the system has no random bytes for the token.
    pub async fn create(&self, new: NewSession) -> Result<Created, Error> {
        let token = SessionToken::generate()?;
        let session = self.create_under(token.digest(), new, true).await?;
        Ok(Created { token, session })
    }

    /// Creates a session for a token that another system has issued. The
    /// [`TokenScheme`](crate::SessionsBuilder::token_scheme) reads the token.
    ///
    /// # Errors
    /// As [`create`](Self::create), except [`Error::Random`]. Also [`Error::NotAToken`] if the
    /// scheme does not accept the token, and [`Error::TokenTaken`] if the token has a session
    /// already.
    pub async fn register(&self, token: impl AsToken, new: NewSession) -> Result<Session, Error> {
        let digest = self.digest(token.text())?;
        self.create_under(digest, new, false).await
    }

    async fn create_under(
        &self,
        digest: TokenDigest,
        new: NewSession,
        issued_here: bool,
    ) -> Result<Session, Error> {
        let created = Arc::clone(&self.engine).create(digest, new.check()?, issued_here);
        match created.await? {
            Creation::Created(session) => Ok(session),
            Creation::Superseded => Err(Error::LoginSuperseded),
            Creation::AlreadyExists => Err(Error::TokenTaken),
        }
    }

    /// Validates a token, as the layer does for every request.
    ///
    /// A text that the scheme does not accept is [`Validation::Invalid`], and no store is queried.
    pub async fn validate(&self, token: impl AsToken) -> Validation {
        match self.digest(token.text()) {
            Ok(digest) => {
                // A caller that validates in a loop must let the reader of the journal run.
                coop::consume_budget().await;
                let mut answers = match self.near_hit(&[digest]) {
                    Some(answers) => answers,
                    None => self.look_up(smallvec::smallvec![digest]).await,
                };
                answers.validations.pop().unwrap_or(Validation::Unavailable)
            }
            Err(TokenError) => Validation::Invalid,
        }
    }

    /// Returns the digest of a text that a request sent as its token.
    ///
    /// # Errors
    /// [`TokenError`] if the text is longer than [`MAX_TOKEN_BYTES`], or if the scheme does not
    /// accept it.
    pub(crate) fn digest(&self, sent: &str) -> Result<TokenDigest, TokenError> {
        if sent.len() > MAX_TOKEN_BYTES {
            return Err(TokenError);
        }
        self.scheme.digest(sent)
    }

    /// Returns the hits of the near cache, if it has a fresh entry for every digest.
    pub(crate) fn near_hit(&self, digests: &[TokenDigest]) -> Option<Answers> {
        self.engine.near_hit(digests)
    }

    /// Looks up several digests at once. This is the only boxed future of a request.
    pub(crate) fn look_up(&self, digests: Digests) -> Boxed<Answers> {
        Arc::clone(&self.engine).validate(digests)
    }

    /// Reads the snapshot of a login that begins now.
    pub(crate) async fn login_snapshot(&self) -> Result<LoginSnapshot, Error> {
        Ok(Arc::clone(&self.engine).login_snapshot().await?)
    }

    /// Replaces the session's data, if the session was not changed since `session` was read.
    ///
    /// The session of a request may come from the cache. A session from the cache may lack changes
    /// of the last D on a connected node, and of the last TTL on a partitioned one. Its version
    /// reveals that.
    ///
    /// # Errors
    /// - [`Error::VersionConflict`] if another request has changed the session.
    /// - [`Error::NoSession`] if it has ended.
    /// - [`Error::Input`] for data over the limits.
    /// - [`Error::Unavailable`] in an outage of Postgres: nothing was changed.
    /// - [`Error::Unknown`] if the reply of Postgres was lost: the data may have been replaced.
    pub async fn update(
        &self,
        session: &Session,
        data: impl Serialize,
    ) -> Result<Applied<Session>, Error> {
        let data = data_to_json(data)?;
        Arc::clone(&self.engine).update(session.id(), session.version(), data).await
    }

    /// Creates a revocation of the sessions that the target names. The revocation runs when it is
    /// awaited.
    ///
    /// [`RevokeTarget`] lists the targets: the session with a token or an id, all sessions of a
    /// user, or all but one. [`Revocation`] sets the reason that the store keeps, and can wait
    /// until the revocation holds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use session_layer::{Error, RevokeTarget, Session, SessionId, SessionToken, Sessions};
    /// # async fn example(
    /// #     sessions: Sessions, token: SessionToken, id: SessionId, session: Session,
    /// # ) -> Result<(), Error> {
    /// let changed = sessions.revoke(&token).await?;
    /// println!("{} session ended: {:?}", changed.value, changed.visibility);
    ///
    /// let _ = sessions.revoke(RevokeTarget::owned("alice", id)).await?;
    /// let _ = sessions.revoke(RevokeTarget::others_of(&session)).await?;
    /// let everywhere = sessions.revoke(RevokeTarget::user("alice")).reason("password stolen");
    /// let _ = everywhere.wait(Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// ```
    pub fn revoke<'a>(&self, target: impl Into<RevokeTarget<'a>>) -> Revocation {
        Revocation::new(self, target.into())
    }

    /// Ends all of the user's sessions, as a revocation of [all of them](RevokeTarget::user) does,
    /// and deletes their rows with addresses, user agents, labels and data. Returns how many rows,
    /// ended ones included. Sessions of logins that begin later are not affected. The visibility is
    /// never `Propagated`: an earlier call may have deleted rows whose entries are still cached.
    ///
    /// These parts stay:
    ///
    /// - The row of `session_users`: the user id, and the epoch that ended the sessions. Without
    ///   it, a login in progress would be let in. The
    ///   [retention](crate::SessionsBuilder::retention) removes it some time after the next restart
    ///   of Postgres, if the user has no session then.
    /// - The user id in the journal of changes, until the journal is purged: twice the TTL, about
    ///   10 minutes by default. Other nodes learn from it which entries to reject.
    /// - Entries in a Redis that did not acknowledge their removal, until their TTL.
    /// - What Postgres keeps of deleted rows until VACUUM, and every backup.
    ///
    /// # Errors
    /// - [`Error::Input`] for a user id over the limits.
    /// - [`Error::Unavailable`] and [`Error::Unknown`] in an outage of Postgres. Call again, which
    ///   is safe and continues.
    pub async fn erase_user(&self, user_id: &str) -> Result<Applied<u64>, Error> {
        check_user_id(user_id)?;
        let note = RevocationNote::new("erased");
        Arc::clone(&self.engine).erase_user(user_id.to_owned(), note).await
    }

    /// Gives the session a new token. For `grace`, the old token still finds the session, so that
    /// requests that were sent in parallel are not rejected. Use [`Duration::ZERO`] at a login or a
    /// change of rights: the old token must be invalid at once, because an attacker may have
    /// planted it.
    ///
    /// `grace` may be any span from zero on. The old token never outlives the session.
    ///
    /// This is for tokens that this crate issues. To replace a token of another system,
    /// [register](Self::register) the next one.
    ///
    /// # Errors
    /// - [`Error::NotAToken`] if the scheme does not accept the token.
    /// - [`Error::AlreadyRotated`] if another request has rotated it. Its response has the new
    ///   token.
    /// - [`Error::NoSession`] if no active session has the token.
    /// - [`Error::Unavailable`] in an outage of Postgres: nothing was changed.
    /// - [`Error::Unknown`] if the reply of Postgres was lost: the old token may be replaced.
    /// - [`Error::Random`] if the system has no random bytes for the new token.
    pub async fn rotate(
        &self,
        token: impl AsToken,
        grace: Duration,
    ) -> Result<Applied<Rotated>, Error> {
        let old = self.digest(token.text())?;
        let new = SessionToken::generate()?;
        let changed = Arc::clone(&self.engine).rotate(old, new, grace).await?;
        let (token, session) = changed.value;
        Ok(Applied { value: Rotated { token, session }, visibility: changed.visibility })
    }

    /// Returns the first page of the user's active sessions, newest first: at most [`LIST_PAGE`].
    ///
    /// # Errors
    /// [`Error::Input`] for a user id over the limits, [`Error::Unavailable`] in an outage of
    /// Postgres.
    pub async fn list(&self, user_id: &str) -> Result<SessionPage, Error> {
        self.page(user_id, None).await
    }

    /// Returns the page of the user's active sessions that begins at `cursor`, the
    /// [`next`](SessionPage::next) of the page before.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn list_page(&self, user_id: &str, cursor: ListCursor) -> Result<SessionPage, Error> {
        self.page(user_id, Some(cursor)).await
    }

    async fn page(&self, user_id: &str, after: Option<ListCursor>) -> Result<SessionPage, Error> {
        check_user_id(user_id)?;
        let listing = Arc::clone(&self.engine).list(user_id.to_owned(), after, LIST_PAGE);
        Ok(listing.await?)
    }

    /// Switches the cache of this process on or off at run time. Without a cache
    /// ([`NoCache`](crate::cache::NoCache)) it stays off.
    pub fn set_mode(&self, mode: CacheMode) {
        self.engine.set_mode(mode);
    }

    /// Returns whether validations use the cache.
    #[must_use]
    pub fn mode(&self) -> CacheMode {
        self.engine.mode()
    }

    /// Returns the counters since the start of the process, and the gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.engine.metrics()
    }

    /// Returns the state of the breaker, which decides whether validations query the cache.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.engine.breaker()
    }

    /// Returns the known status of the cache, without I/O.
    #[must_use]
    pub fn cache_status(&self) -> CacheStatus {
        self.engine.cache_status()
    }

    /// Returns how long an entry may be served.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns the errors of the last 60 s, newest first, at most 10. Each cause is listed once,
    /// with how often it occurred and how long ago.
    #[must_use]
    pub fn recent_errors(&self) -> Vec<String> {
        self.engine.recent_errors().iter().map(ToString::to_string).collect()
    }

    /// Stops the background tasks and closes the connections that this crate opened. Waits for
    /// changes in flight, but no longer than `deadline`.
    ///
    /// # Errors
    /// [`ShutdownError`] if work was still in flight at the deadline. That work continues.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        tokio::time::timeout(deadline, Arc::clone(&self.engine).shutdown())
            .await
            .map_err(|_elapsed| ShutdownError)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("mode", &self.mode()).finish_non_exhaustive()
    }
}

/// The error of a shutdown that did not finish by its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("background work was still in flight at the shutdown's deadline: allow more time")]
#[non_exhaustive]
pub struct ShutdownError;
