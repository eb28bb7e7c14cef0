//! A login, from its beginning: what a revoke-all that comes in between ends, too.
//!
//! A login takes a while: a password is checked, a second factor asked for. If all of the user's
//! sessions are revoked meanwhile ("my password was stolen"), a session that comes into being
//! afterwards from what was checked before must not. So a login notes where the store stands when
//! it begins, before anybody knows whose it will be, and is refused at its end if the user's epoch
//! was raised by a transaction that had not committed then.

use std::fmt;

use crate::model::error::Error;
use crate::model::session::{LoginSnapshot, NewSession};
use crate::sessions::{Created, Sessions};

/// A login that has begun: made by [`Sessions::begin_login`], ended by [`create`](Self::create).
///
/// ```no_run
/// # use session_layer::{Error, NewSession, Sessions};
/// # async fn check_password(name: &str, password: &str) -> bool { true }
/// # async fn log_in(sessions: Sessions, name: &str, password: &str) -> Result<(), Error> {
/// let login = sessions.begin_login().await?;      // before anything is checked
/// if check_password(name, password).await {
///     let created = login.create(NewSession::new(name)).await?;
///     // created.token goes to the client
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a login is nothing before `create`"]
pub struct Login {
    sessions: Sessions,
    snapshot: LoginSnapshot,
}

impl Sessions {
    /// Begins a login: reads where Postgres stands now. This costs one small read. Nothing is
    /// stored, so a login that never ends leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Unavailable`] in an outage of Postgres.
    pub async fn begin_login(&self) -> Result<Login, Error> {
        Ok(self.resume_login(self.login_snapshot().await?))
    }

    /// Continues a login that began in another request or process. Its [snapshot](Login::snapshot)
    /// must have been stored where the client can't change it: in a signed cookie, or on the
    /// server.
    pub fn resume_login(&self, snapshot: LoginSnapshot) -> Login {
        Login { sessions: self.clone(), snapshot }
    }
}

impl Login {
    /// Ends the login with a session, unless all of the user's sessions were revoked since it
    /// began. A login from a browser also ends the sessions that its request came with:
    /// [`create_replacing`](Self::create_replacing).
    ///
    /// # Errors
    /// [`Error::LoginSuperseded`] if they were; else as [`Sessions::create`].
    pub async fn create(&self, new: NewSession) -> Result<Created, Error> {
        self.sessions.create(new.begun(self.snapshot.clone())).await
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// When it began, to be written down for [`Sessions::resume_login`].
    #[must_use]
    pub fn snapshot(&self) -> &LoginSnapshot {
        &self.snapshot
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}
