//! A session: whose it is, until when, and what the application keeps in it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::error::DataError;

mod login_moment;
mod new_session;

pub use self::login_moment::{LoginMoment, NoLoginMoment};
pub(crate) use self::new_session::data_to_json;
pub use self::new_session::{
    CheckedSession, DEFAULT_LIFETIME, MAX_DATA_BYTES, MAX_LABEL_CHARS, MAX_USER_AGENT_CHARS,
    MAX_USER_ID_CHARS, NewSession,
};

/// The public name of a session: a UUID that may be logged, shown and put into URLs. It does not let
/// anyone in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

impl SessionId {
    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// From the UUID's 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The UUID's 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.0)
    }
}

impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self).map_err(ParseSessionIdError)
    }
}

/// A text that is no session id, because it is no UUID.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a session id is a UUID")]
pub struct ParseSessionIdError(#[source] uuid::Error);

/// A valid session, as the layer puts it into the request's extensions. Cheap to clone.
///
/// It is a copy made when the request was validated; to change it, see
/// [`Sessions::update`](crate::Sessions::update).
#[derive(Clone)]
pub struct Session(Arc<SessionParts>);

/// What a [`Session`] is made of: for stores and caches, which take it apart and put it together.
#[derive(Debug, Clone)]
pub struct SessionParts {
    /// The public name.
    pub id: SessionId,
    /// Whose session it is, as the application named the user.
    pub user_id: String,
    /// Raised by every change but a touch.
    pub version: i64,
    /// When the session was created.
    pub created_at: Timestamp,
    /// When the user last proved who they are.
    pub authenticated_at: Timestamp,
    /// When it was last seen in use, to the granularity of a touch.
    pub last_seen_at: Timestamp,
    /// When it ends at the latest (the absolute timeout).
    pub expires_at: Timestamp,
    /// How long it may go unused, if that is limited (the idle timeout).
    pub idle_timeout: Option<Duration>,
    /// Its cookie outlives the browser ("remember me").
    pub persistent: bool,
    /// The application's data: JSON.
    pub data: Box<RawValue>,
}

impl From<SessionParts> for Session {
    fn from(parts: SessionParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Session {
    /// The public name of this session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.0.id
    }

    /// Whose session it is, as the application named the user at
    /// [`create`](crate::Sessions::create).
    #[must_use]
    pub fn user_id(&self) -> &str {
        &self.0.user_id
    }

    /// Raised by every change; [`update`](crate::Sessions::update) compares it.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.0.version
    }

    /// When the session was created.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.0.created_at
    }

    /// When the user last proved who they are; ask again before what is dangerous if it is long ago.
    #[must_use]
    pub fn authenticated_at(&self) -> Timestamp {
        self.0.authenticated_at
    }

    /// When it was last seen in use. It moves in steps: a touch is written at most once a minute, or
    /// four times per idle timeout where that is more often.
    #[must_use]
    pub fn last_seen_at(&self) -> Timestamp {
        self.0.last_seen_at
    }

    /// When the session ends, if it goes on being used: the absolute timeout.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }

    /// How long the session may go unused; `None`: without limit.
    #[must_use]
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.0.idle_timeout
    }

    /// When the session ends if it is not used any more: the earlier of its two timeouts.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        let idle = self.0.idle_timeout;
        idle.map_or(self.0.expires_at, |idle| {
            self.0.expires_at.min(self.0.last_seen_at.after(idle))
        })
    }

    /// Does its cookie outlive the browser ("remember me")? As said at its
    /// [creation](crate::NewSession::persistent).
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.0.persistent
    }

    /// The application's data.
    ///
    /// ```
    /// # use session_layer::Session;
    /// #[derive(serde::Deserialize)]
    /// struct Cart { items: Vec<u32> }
    ///
    /// fn items(session: &Session) -> usize {
    ///     session.data::<Cart>().map_or(0, |cart| cart.items.len())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`DataError`] when what is stored is not a `T`: written by another version of the
    /// application, perhaps. Whether that is a default, a 500 or a new login is the handler's to say.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        serde_json::from_str(self.0.data.get()).map_err(DataError)
    }

    /// The application's data as the JSON text that is stored.
    #[must_use]
    pub fn data_json(&self) -> &str {
        self.0.data.get()
    }

    /// What it is made of, for stores and caches.
    #[must_use]
    pub fn parts(&self) -> &SessionParts {
        &self.0
    }
}

impl fmt::Debug for Session {
    /// Without the data, which is the application's and may be private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.0.id)
            .field("user_id", &self.0.user_id)
            .field("version", &self.0.version)
            .field("expires_at", &self.0.expires_at)
            .finish_non_exhaustive()
    }
}

/// One row of a user's list of sessions ("where am I logged in?").
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListedSession {
    /// The session.
    pub session: Session,
    /// The name its login gave it.
    pub label: Option<String>,
    /// The address it was created from.
    pub ip: Option<IpAddr>,
    /// The client it was created by.
    pub user_agent: Option<String>,
}

impl ListedSession {
    /// One without label, address and client; those are public fields.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self {
            session,
            label: None,
            ip: None,
            user_agent: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_session_keeps_its_data_private() {
        let at = Timestamp::from_micros(0);
        let session = Session::from(SessionParts {
            id: SessionId::random(),
            user_id: "alice".to_owned(),
            version: 1,
            created_at: at,
            authenticated_at: at,
            last_seen_at: at,
            expires_at: at,
            idle_timeout: None,
            persistent: false,
            data: data_to_json("secret-data").unwrap(),
        });
        assert!(!format!("{session:?}").contains("secret-data"));
        assert_eq!(session.data::<String>().unwrap(), "secret-data");
        assert!(session.data::<u32>().is_err());
    }
}
