//! [`Sessions`]: the handle that applications hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub(crate) mod builder;
pub(crate) mod env;
mod erased;
pub(crate) mod login;
pub(crate) mod probe;
pub(crate) mod request_sessions;
pub(crate) mod revocation;

use self::erased::AnyEngine;
pub(crate) use self::erased::Boxed;
use crate::cache::{CacheProbe, CacheStatus, SessionCache};
use crate::engine::Engine;
use crate::engine::breaker::BreakerState;
use crate::engine::cache_mode::CacheMode;
use crate::engine::change::Applied;
use crate::engine::metrics::Metrics;
use crate::engine::validation::{Answers, Validation};
use crate::model::error::{Error, StoreError};
use crate::model::session::{
    LIST_PAGE, ListCursor, LoginSnapshot, NewSession, Session, SessionPage, check_user_id,
    data_to_json,
};
use crate::model::token::{
    AsToken, MAX_TOKEN_BYTES, SessionToken, TokenDigest, TokenError, TokenScheme,
};
use crate::sessions::probe::Probing;
use crate::sessions::revocation::{Revocation, RevokeTarget};
use crate::store::{Creation, SessionStore};

/// Creates, validates and ends sessions. Cheap to clone; all clones are one.
///
/// It has no type parameters, so that an application's state can name it. Built by
/// [`Sessions::builder`] from a cache and a store, or by [`Sessions::from_env`].
///
/// It spawns tasks, so it must be used within a Tokio runtime. Every change continues to its end
/// even if its future is dropped.
#[derive(Clone)]
pub struct Sessions {
    engine: Arc<dyn AnyEngine>,
    scheme: Arc<dyn TokenScheme>,
    ttl: Duration,
    pub(crate) probing: Arc<Probing>,
}

/// A session that was just created, and the token that lets its user in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Created {
    /// To be sent to the client, once; it is stored nowhere.
    pub token: SessionToken,
    /// The session.
    pub session: Session,
}

/// A token after its rotation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rotated {
    /// The new token, to be sent to the client, once.
    pub token: SessionToken,
    /// The session, the same as before.
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

    /// Creates a session, as the end of a login.
    ///
    /// A revocation of [all of the user's sessions](RevokeTarget::user) also ends logins that are
    /// under way: they are refused. A login is under way from when Postgres receives it, which is
    /// during this call. If the application does something before, such as checking a password, it
    /// [begins the login](Self::begin_login) first, and that time counts too.
    ///
    /// # Errors
    /// [`Error::Input`] where a limit is broken, [`Error::LoginSuperseded`] where all of the user's
    /// sessions were revoked meanwhile, [`Error::Unavailable`] or [`Error::Unknown`] in an outage
    /// of Postgres. (In the last case a session may exist, but no one has its token.)
    pub async fn create(&self, new: NewSession) -> Result<Created, Error> {
        let token = SessionToken::generate()?;
        let session = self.create_under(token.digest(), new, true).await?;
        Ok(Created { token, session })
    }

    /// Creates a session for a token that was issued elsewhere, as the
    /// [`TokenScheme`](crate::SessionsBuilder::token_scheme) reads it.
    ///
    /// # Errors
    /// As [`create`](Self::create); [`Error::NotAToken`] where the scheme does not accept it,
    /// [`Error::TokenTaken`] where it has a session already.
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
                let mut answers = self.look_up(vec![digest]).await;
                answers.validations.pop().unwrap_or(Validation::Unavailable)
            }
            Err(TokenError) => Validation::Invalid,
        }
    }

    /// The digest of what a request presented.
    ///
    /// # Errors
    /// [`TokenError`] for what is over [`MAX_TOKEN_BYTES`] or refused by the scheme.
    pub(crate) fn digest(&self, presented: &str) -> Result<TokenDigest, TokenError> {
        if presented.len() > MAX_TOKEN_BYTES {
            return Err(TokenError);
        }
        self.scheme.digest(presented)
    }

    /// Several digests in one look-up. The one boxed future of a request.
    pub(crate) fn look_up(&self, digests: Vec<TokenDigest>) -> Boxed<Answers> {
        Arc::clone(&self.engine).validate(digests)
    }

    /// Reads where the store stands at the beginning of a login.
    pub(crate) async fn login_snapshot(&self) -> Result<LoginSnapshot, Error> {
        Ok(Arc::clone(&self.engine).login_snapshot().await?)
    }

    /// Replaces the session's data, if the session was not changed since `session` was read.
    ///
    /// The session of a request may come from the cache. It may be older than a change by D on a
    /// node that reaches Postgres, and by the TTL on another node. Its version shows that.
    ///
    /// # Errors
    /// [`Error::VersionConflict`] for a lost race, [`Error::NoSession`] if it has ended, and
    /// [`Error::Input`] for data over the limits. Otherwise as [`create`](Self::create).
    pub async fn update(
        &self,
        session: &Session,
        data: impl Serialize,
    ) -> Result<Applied<Session>, Error> {
        let data = data_to_json(data)?;
        Arc::clone(&self.engine).update(session.id(), session.version(), data).await
    }

    /// Revokes the sessions that the target names: the one with a token or an id, all of a user,
    /// or all but one. Awaiting the result does it. See [`RevokeTarget`] for the targets, and
    /// [`Revocation`] for the reason that the store keeps and for waiting until it holds.
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

    /// Gives the session a new token. For `grace` the old one resolves to the same session, so that
    /// parallel requests already sent are not thrown out. Use [`Duration::ZERO`] at a login or a
    /// change of rights: against fixation the old token must be worthless at once.
    ///
    /// For tokens of ours; one issued elsewhere is replaced by registering the next.
    ///
    /// # Errors
    /// [`Error::AlreadyRotated`]: of two rotations at once one gets the new token;
    /// [`Error::NoSession`]; else as a [`Revocation`].
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

    /// Returns the newest of the user's active sessions, at most [`LIST_PAGE`] of them: the first
    /// page of the list.
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

    /// Turns the cache on or off at run time, for this process. Without a cache
    /// ([`NoCache`](crate::cache::NoCache)) it stays off.
    pub fn set_mode(&self, mode: CacheMode) {
        self.engine.set_mode(mode);
    }

    /// Is the cache used?
    #[must_use]
    pub fn mode(&self) -> CacheMode {
        self.engine.mode()
    }

    /// What happened since the start.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.engine.metrics()
    }

    /// Is the cache being asked, or was it given up for now?
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.engine.breaker()
    }

    /// D, where a journal is read.
    pub(crate) fn staleness_bound(&self) -> Option<Duration> {
        self.engine.staleness_bound()
    }

    /// Does the journal let copies be served?
    pub(crate) fn permits_serving(&self) -> bool {
        self.engine.permits_serving()
    }

    /// What is known of the cache without asking it.
    #[must_use]
    pub fn cache_status(&self) -> CacheStatus {
        self.engine.cache_status()
    }

    /// How long an entry may be served.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What went wrong in the last 60 s, newest first, at most 10: each cause once, how often and
    /// how long ago.
    #[must_use]
    pub fn recent_errors(&self) -> Vec<String> {
        self.reported_errors().iter().map(ToString::to_string).collect()
    }

    /// `"postgres"` or `"sqlite"`.
    pub(crate) fn store_backend(&self) -> &'static str {
        self.engine.store_backend()
    }

    /// Has the store answered since the start? Before that no cached copy is believed.
    pub(crate) fn store_is_known(&self) -> bool {
        self.engine.store_is_known()
    }

    /// Really pings, sets and gets.
    pub(crate) fn probe_cache(&self) -> Boxed<CacheProbe> {
        Arc::clone(&self.engine).probe_cache()
    }

    /// Can the store answer right now?
    pub(crate) fn probe_store(&self) -> Boxed<Result<(), StoreError>> {
        Arc::clone(&self.engine).probe_store()
    }

    /// Stops the background tasks and closes the connections that this crate opened. Changes under
    /// way are waited for until `deadline`.
    ///
    /// # Errors
    /// [`ShutdownError`] when something was still under way then; it is left to itself.
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

/// Something was still under way at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("background work was still under way at the deadline")]
#[non_exhaustive]
pub struct ShutdownError;
