//! A login from its beginning to its end.
//!
//! A login takes time: the application checks a password and requests a second factor. A revoke-all
//! of the user's sessions during that time ("my password was stolen") must also end this login.
//! Otherwise a password that was checked before the revocation would create a session after it.
//!
//! A login therefore records a snapshot of the store when it begins. The user need not be known by
//! then. At its end, the login is rejected if a transaction that is not in the snapshot has raised
//! the user's epoch.

use std::fmt;

use crate::model::error::Error;
use crate::model::session::{LoginSnapshot, NewSession};
use crate::sessions::{Created, Sessions};

/// A login that has begun. [`Sessions::begin_login`] begins it, and [`create`](Self::create) ends
/// it.
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
#[must_use = "a login creates no session before `create`"]
pub struct Login {
    sessions: Sessions,
    snapshot: LoginSnapshot,
}

impl Sessions {
    /// Begins a login by reading a snapshot of Postgres, which costs one small read. Nothing is
    /// stored, so a login that never ends leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Unavailable`] in an outage of Postgres.
    pub async fn begin_login(&self) -> Result<Login, Error> {
        Ok(self.resume_login(self.login_snapshot().await?))
    }

    /// Continues a login that began in another request or process. The application must have stored
    /// its [snapshot](Login::snapshot) where the client can't change it: in a signed cookie, or on
    /// the server.
    pub fn resume_login(&self, snapshot: LoginSnapshot) -> Login {
        Login { sessions: self.clone(), snapshot }
    }
}

impl Login {
    /// Ends the login by creating a session, unless all of the user's sessions were revoked since
    /// it began. For a login from a browser use [`create_replacing`](Self::create_replacing), which
    /// also ends the sessions of the request's cookies.
    ///
    /// # Errors
    /// As [`Sessions::create`]. [`Error::LoginSuperseded`] counts from the beginning of the login.
    pub async fn create(&self, new: NewSession) -> Result<Created, Error> {
        self.sessions.create(new.begun(self.snapshot.clone())).await
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Returns the snapshot of the beginning, to be stored for [`Sessions::resume_login`].
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
