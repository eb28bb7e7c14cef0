//! [`Sessions`]: the handle that applications hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

mod erased;

use self::erased::AnyDriver;
pub(crate) use self::erased::Boxed;
use crate::breaker::BreakerState;
use crate::cache::{CacheProbe, CacheStatus, SessionCache};
use crate::driver::Driver;
use crate::error::{Error, StoreError};
use crate::metrics::Metrics;
use crate::probe::Probing;
use crate::revoke::Changed;
use crate::session::{ListedSession, LoginMoment, NewSession, Session, SessionId, data_to_json};
use crate::store::{Creation, SessionStore, Target};
use crate::token::{MAX_TOKEN_BYTES, NotAToken, SessionToken, TokenDigest, TokenScheme};
use crate::validate::{Answers, Validation};

/// Creates, validates and ends sessions. Cheap to clone; all clones are one.
///
/// It has no type parameters, so that an application's state can name it. Built by
/// [`Sessions::builder`] from a cache and a store, or by [`Sessions::from_env`].
///
/// It spawns tasks and so must be used within a Tokio runtime. Every change goes on to its end even
/// if the future that asked for it is dropped.
#[derive(Clone)]
pub struct Sessions {
    driver: Arc<dyn AnyDriver>,
    scheme: Arc<dyn TokenScheme>,
    ttl: Duration,
    pub(crate) probing: Arc<Probing>,
}

/// Is the cache used?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Yes.
    On,
    /// No: validations go straight to Postgres. Changes still invalidate the cache, so that turning
    /// it on again serves nothing that was revoked meanwhile.
    Bypass,
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
        driver: Arc<Driver<C, S>>,
        scheme: Arc<dyn TokenScheme>,
    ) -> Self {
        let ttl = driver.settings.ttl;
        Self {
            driver,
            scheme,
            ttl,
            probing: Arc::default(),
        }
    }

    /// Creates a session, as the end of a login.
    ///
    /// A session that a [`revoke_all`](Self::revoke_all) should have ended never comes into being:
    /// a login that was under way then is refused. The login is under way from when Postgres hears of
    /// it, which is during this call. Where the application does something before (checks a password, say),
    /// that counts too if it [begins the login](Self::begin_login) first.
    ///
    /// # Errors
    /// [`Error::Input`] where a limit is broken, [`Error::LoginSuperseded`] where all of the user's
    /// sessions were revoked meanwhile, [`Error::Unavailable`] or [`Error::Unknown`] in an outage of
    /// Postgres. (In the last case a session may exist, but no one has its token.)
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
    pub async fn register(&self, presented: &str, new: NewSession) -> Result<Session, Error> {
        let digest = self.digest(presented)?;
        self.create_under(digest, new, false).await
    }

    async fn create_under(
        &self,
        digest: TokenDigest,
        new: NewSession,
        issued_here: bool,
    ) -> Result<Session, Error> {
        let created = Arc::clone(&self.driver).create(digest, new.check()?, issued_here);
        match created.await? {
            Creation::Created(session) => Ok(session),
            Creation::Superseded => Err(Error::LoginSuperseded),
            Creation::Taken => Err(Error::TokenTaken),
        }
    }

    /// Whose session is this, and may it still be used? What the layer asks for every request.
    ///
    /// Something that is no token at all is [`Validation::Invalid`]; no store is asked.
    pub async fn validate(&self, presented: &str) -> Validation {
        match self.digest(presented) {
            Ok(digest) => {
                let mut answers = self.look_up(vec![digest]).await;
                answers.validations.pop().unwrap_or(Validation::Unavailable)
            }
            Err(NotAToken) => Validation::Invalid,
        }
    }

    /// The digest of what a request presented.
    ///
    /// # Errors
    /// [`NotAToken`] for what is over [`MAX_TOKEN_BYTES`] or refused by the scheme.
    pub(crate) fn digest(&self, presented: &str) -> Result<TokenDigest, NotAToken> {
        if presented.len() > MAX_TOKEN_BYTES {
            return Err(NotAToken);
        }
        self.scheme.digest(presented)
    }

    /// Several digests in one look-up. The one boxed future of a request.
    pub(crate) fn look_up(&self, digests: Vec<TokenDigest>) -> Boxed<Answers> {
        Arc::clone(&self.driver).validate(digests)
    }

    /// Where the store stands: the beginning of a login.
    pub(crate) async fn login_moment(&self) -> Result<LoginMoment, Error> {
        Ok(Arc::clone(&self.driver).login_moment().await?)
    }

    /// Replaces the session's data, if nobody changed the session since this copy was read.
    ///
    /// The copy of a request may come from the cache and be up to the cache's TTL old where someone
    /// changed the row without us; the version tells.
    ///
    /// # Errors
    /// [`Error::VersionConflict`] for a lost race, [`Error::NoSession`] where it has ended,
    /// [`Error::Input`] for data over the limits; else as [`create`](Self::create).
    pub async fn update(
        &self,
        session: &Session,
        data: impl Serialize,
    ) -> Result<Changed<Session>, Error> {
        let data = data_to_json(data)?;
        Arc::clone(&self.driver)
            .update(session.id(), session.version(), data)
            .await
    }

    /// Ends the session with this token. The value says how many were alive: 1 or 0.
    ///
    /// Calling it again is safe, and is what to do after an error: a session that had ended already
    /// is removed from the cache all the same, and the answer says how far that reaches.
    ///
    /// # Errors
    /// [`Error::NotAToken`]; [`Error::Unavailable`]: nothing was changed; [`Error::Unknown`]: it may
    /// have been.
    pub async fn revoke(&self, presented: &str) -> Result<Changed<u64>, Error> {
        let digest = self.digest(presented)?;
        self.end(Target::Token(digest), "revoked").await
    }

    /// Ends the session with this token, and waits until that holds: until Redis has acknowledged that its
    /// copy is gone, or else until every node in touch with Postgres has read of it
    /// ([`within`](crate::Reach::Committed), 2 s by default). What fails is tried again meanwhile.
    ///
    /// The answer's [`reach`](Changed::reach) is what is left then: `Propagated`, or `Committed` with
    /// `within` at zero and `at_most` for nodes that are cut off. It comes after `deadline` at the latest,
    /// with whatever spans are left; `Duration::MAX` is for ever.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke), if that failed until the deadline.
    pub async fn revoke_and_wait(
        &self,
        presented: &str,
        deadline: Duration,
    ) -> Result<Changed<u64>, Error> {
        let digest = self.digest(presented)?;
        let target = Target::Token(digest);
        Arc::clone(&self.driver)
            .revoke_and_wait(target, "revoked".to_owned(), deadline)
            .await
    }

    /// Ends the session with this id, whoever's it is. For one that a user named, see
    /// [`revoke_owned`](Self::revoke_owned).
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub async fn revoke_id(&self, id: SessionId) -> Result<Changed<u64>, Error> {
        self.end(Target::Id(id), "revoked").await
    }

    /// Ends the session with this id if it is this user's: what to call where the id comes from a
    /// request. Another user's session and an unknown one are both
    /// [`Reach::Nothing`](crate::Reach::Nothing).
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub async fn revoke_owned(&self, user_id: &str, id: SessionId) -> Result<Changed<u64>, Error> {
        self.end(Target::OwnedBy(id, user_id.to_owned()), "revoked")
            .await
    }

    /// Ends all of the user's sessions, those whose login is under way included. The value says how
    /// many were alive.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub async fn revoke_all(&self, user_id: &str) -> Result<Changed<u64>, Error> {
        self.end(
            Target::User {
                user_id: user_id.to_owned(),
                keep: None,
            },
            "revoked all",
        )
        .await
    }

    /// Ends all of the user's sessions but this one ("log me out everywhere else").
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub async fn revoke_all_but(&self, keep: &Session) -> Result<Changed<u64>, Error> {
        let target = Target::User {
            user_id: keep.user_id().to_owned(),
            keep: Some(keep.id()),
        };
        self.end(target, "revoked all others").await
    }

    async fn end(&self, target: Target, reason: &str) -> Result<Changed<u64>, Error> {
        Arc::clone(&self.driver)
            .revoke(target, reason.to_owned())
            .await
    }

    /// Gives the session a new token. For `grace` the old one resolves to the same session, so that
    /// parallel requests already sent are not thrown out. Use [`Duration::ZERO`] at a login or a
    /// change of rights: against fixation the old token must be worthless at once.
    ///
    /// For tokens of ours; one issued elsewhere is replaced by registering the next.
    ///
    /// # Errors
    /// [`Error::AlreadyRotated`]: of two rotations at once one gets the new token;
    /// [`Error::NoSession`]; else as [`revoke`](Self::revoke).
    pub async fn rotate(
        &self,
        presented: &str,
        grace: Duration,
    ) -> Result<Changed<Rotated>, Error> {
        let old = self.digest(presented)?;
        let new = SessionToken::generate()?;
        let changed = Arc::clone(&self.driver).rotate(old, new, grace).await?;
        let (token, session) = changed.value;
        Ok(Changed {
            value: Rotated { token, session },
            reach: changed.reach,
        })
    }

    /// The user's sessions that are alive, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] in an outage of Postgres.
    pub async fn list(&self, user_id: &str) -> Result<Vec<ListedSession>, Error> {
        Ok(Arc::clone(&self.driver).list(user_id.to_owned()).await?)
    }

    /// Turns the cache on or off at run time, for this process. Without a cache
    /// ([`NoCache`](crate::cache::NoCache)) it stays off.
    pub fn set_mode(&self, mode: Mode) {
        self.driver.set_mode(mode);
    }

    /// Is the cache used?
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.driver.mode()
    }

    /// What happened since the start.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.driver.metrics()
    }

    /// Is the cache being asked, or was it given up for now?
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.driver.breaker()
    }

    /// D, where a journal is read.
    pub(crate) fn within(&self) -> Option<Duration> {
        self.driver.within()
    }

    /// Does the journal let copies be served?
    pub(crate) fn believes(&self) -> bool {
        self.driver.believes()
    }

    /// What is known of the cache without asking it.
    #[must_use]
    pub fn cache_status(&self) -> CacheStatus {
        self.driver.cache_status()
    }

    /// How long an entry may be served.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What went wrong in the last 60 s, newest first, at most 10: each cause once, how often and how long ago.
    #[must_use]
    pub fn recent_errors(&self) -> Vec<String> {
        self.troubles().iter().map(ToString::to_string).collect()
    }

    /// `"postgres"` or `"sqlite"`.
    pub(crate) fn store_backend(&self) -> &'static str {
        self.driver.store_backend()
    }

    /// Has the store answered since the start? Before that no cached copy is believed.
    pub(crate) fn store_is_known(&self) -> bool {
        self.driver.store_is_known()
    }

    /// Really pings, sets and gets.
    pub(crate) fn probe_cache(&self) -> Boxed<CacheProbe> {
        Arc::clone(&self.driver).probe_cache()
    }

    /// Can the store answer right now?
    pub(crate) fn probe_store(&self) -> Boxed<Result<(), StoreError>> {
        Arc::clone(&self.driver).probe_store()
    }

    /// Stops the background tasks and closes the connections that this crate opened. Changes under
    /// way are waited for until `deadline`.
    ///
    /// # Errors
    /// [`ShutdownError`] when something was still under way then; it is left to itself.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        tokio::time::timeout(deadline, Arc::clone(&self.driver).shutdown())
            .await
            .map_err(|_elapsed| ShutdownError)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}

/// Something was still under way at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("background work was still under way at the deadline")]
#[non_exhaustive]
pub struct ShutdownError;
