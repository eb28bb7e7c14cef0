//! A session: its user, its lifetime, and the data that the application keeps in it.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use triomphe::{Arc, HeaderSlice};
use uuid::Uuid;

use crate::model::clock::Timestamp;
use crate::model::error::DataError;

mod listed;
mod login_snapshot;
mod new_session;

pub use self::listed::{LIST_PAGE, ListCursor, ParseListCursorError, SessionPage, SessionSummary};
pub use self::login_snapshot::{LoginSnapshot, LoginSnapshotError};
pub use self::new_session::{
    DEFAULT_LIFETIME, MAX_DATA_BYTES, MAX_LABEL_CHARS, MAX_LIFETIME, MAX_REASON_CHARS,
    MAX_REVOKED_IDS, MAX_USER_AGENT_CHARS, MAX_USER_ID_CHARS, NewSession, ValidatedSession,
};
pub(crate) use self::new_session::{
    check_actor, check_reason, check_revoked_ids, check_user_id, data_to_json,
};

/// The public name of a session: a UUID that may be logged, shown and put into URLs. It grants no
/// access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

impl SessionId {
    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Creates an id from the UUID's 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns the UUID's 16 bytes.
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

/// An error for a text that is no session id, because it is no UUID.
#[derive(Debug, Clone, thiserror::Error)]
#[error("not a session id: pass a UUID")]
pub struct ParseSessionIdError(#[source] uuid::Error);

/// A valid session, which the layer puts into the request's extensions. Cheap to clone.
///
/// It is a copy from the validation of the request. To change the session, call
/// [`Sessions::update`](crate::Sessions::update).
#[derive(Clone)]
pub struct Session(Arc<HeaderSlice<SessionFields, str>>);

/// The fields of a [`Session`]. Its user id and then its data as JSON follow in the same
/// allocation.
#[derive(Debug)]
pub(crate) struct SessionFields {
    pub(crate) id: SessionId,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) authenticated_at: Timestamp,
    pub(crate) last_seen_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) idle_timeout: Option<Micros>,
    pub(crate) persistent: bool,
    pub(crate) user_id_bytes: usize,
}

/// A duration that takes half of the memory of [`Duration`], from 1 µs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Micros(NonZeroU64);

impl From<Duration> for Micros {
    fn from(span: Duration) -> Self {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self(NonZeroU64::new(micros).unwrap_or(NonZeroU64::MIN))
    }
}

impl From<Micros> for Duration {
    fn from(Micros(micros): Micros) -> Self {
        Self::from_micros(micros.get())
    }
}

impl SessionFields {
    /// Returns the session, or `None` if the texts are not a user id and JSON.
    #[cfg(feature = "redis")]
    pub(crate) fn with_texts(self, texts: &str) -> Option<Session> {
        let (_, data) = texts.split_at_checked(self.user_id_bytes)?;
        serde_json::from_str::<&RawValue>(data).ok()?;
        Some(Session(Arc::from_header_and_str(self, texts)))
    }
}

/// The parts of a [`Session`], for stores and caches.
#[derive(Debug, Clone)]
pub struct SessionParts {
    /// The public name.
    pub id: SessionId,
    /// The user, as the application names them.
    pub user_id: String,
    /// The version, which every change except a touch raises.
    pub version: i64,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time of the user's last authentication.
    pub authenticated_at: Timestamp,
    /// The time of the last use, with the granularity of a touch.
    pub last_seen_at: Timestamp,
    /// The absolute timeout.
    pub expires_at: Timestamp,
    /// The idle timeout, if there is one.
    pub idle_timeout: Option<Duration>,
    /// Whether the cookie outlives the browser ("remember me").
    pub persistent: bool,
    /// The application's data, as JSON.
    pub data: Box<RawValue>,
}

impl SessionParts {
    /// Creates the parts of a session as its login at `created_at` leaves them: version 1, without
    /// data, not persistent, and with [`DEFAULT_LIFETIME`]. Change the fields that differ.
    ///
    /// ```
    /// use session_layer::{Session, SessionId, Timestamp, store::SessionParts};
    ///
    /// let now = Timestamp::from_micros(1_700_000_000_000_000);
    /// let parts = SessionParts::new(SessionId::from_bytes([1; 16]), "alice", now);
    /// let session = Session::from(SessionParts { persistent: true, ..parts });
    /// assert_eq!(session.user_id(), "alice");
    /// ```
    #[must_use]
    pub fn new(id: SessionId, user_id: impl Into<String>, created_at: Timestamp) -> Self {
        Self {
            id,
            user_id: user_id.into(),
            version: 1,
            created_at,
            authenticated_at: created_at,
            last_seen_at: created_at,
            expires_at: created_at.after(DEFAULT_LIFETIME),
            idle_timeout: None,
            persistent: false,
            data: RawValue::NULL.to_owned(),
        }
    }
}

impl From<SessionParts> for Session {
    fn from(parts: SessionParts) -> Self {
        let mut texts = parts.user_id;
        let user_id_bytes = texts.len();
        texts.push_str(parts.data.get());
        let fields = SessionFields {
            id: parts.id,
            version: parts.version,
            created_at: parts.created_at,
            authenticated_at: parts.authenticated_at,
            last_seen_at: parts.last_seen_at,
            expires_at: parts.expires_at,
            idle_timeout: parts.idle_timeout.map(Micros::from),
            persistent: parts.persistent,
            user_id_bytes,
        };
        Self(Arc::from_header_and_str(fields, &texts))
    }
}

impl Session {
    /// Returns the public name of this session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.0.header.id
    }

    /// Returns the user, as the application named them at [`create`](crate::Sessions::create).
    #[must_use]
    pub fn user_id(&self) -> &str {
        &self.0.slice[..self.0.header.user_id_bytes]
    }

    /// Returns the version, which every change except a touch raises and
    /// [`update`](crate::Sessions::update) compares.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.0.header.version
    }

    /// Returns when the session was created.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.0.header.created_at
    }

    /// Returns when the user last authenticated. If that is long ago, ask for the password again
    /// before a dangerous action.
    #[must_use]
    pub fn authenticated_at(&self) -> Timestamp {
        self.0.header.authenticated_at
    }

    /// Returns when the session was last used. The value moves in steps: a touch is written at most
    /// once a minute, or four times per idle timeout if that is more often.
    #[must_use]
    pub fn last_seen_at(&self) -> Timestamp {
        self.0.header.last_seen_at
    }

    /// Returns when the session ends even if it stays in use (the absolute timeout).
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.header.expires_at
    }

    /// Returns the idle timeout, or `None` if there is none.
    #[must_use]
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.0.header.idle_timeout.map(Duration::from)
    }

    /// Returns when the session ends if it is not used again: the earlier of its two timeouts.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        let expires_at = self.expires_at();
        self.idle_timeout()
            .map_or(expires_at, |idle| expires_at.min(self.last_seen_at().after(idle)))
    }

    /// Returns whether the cookie outlives the browser ("remember me"), as set at the
    /// [creation](crate::NewSession::persistent).
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.0.header.persistent
    }

    /// Deserializes the application's data.
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
    /// [`DataError`] if the stored data is not a `T`, for example because another version of the
    /// application wrote it. The handler decides between a default, a 500 and a new login.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        serde_json::from_str(self.data_json()).map_err(DataError::from)
    }

    /// Returns the application's data as the stored JSON text.
    #[must_use]
    pub fn data_json(&self) -> &str {
        &self.0.slice[self.0.header.user_id_bytes..]
    }

    /// Returns a copy of the parts, for stores and caches.
    #[must_use]
    pub fn parts(&self) -> SessionParts {
        let data = RawValue::from_string(self.data_json().to_owned());
        SessionParts {
            id: self.0.header.id,
            user_id: self.user_id().to_owned(),
            version: self.0.header.version,
            created_at: self.0.header.created_at,
            authenticated_at: self.0.header.authenticated_at,
            last_seen_at: self.0.header.last_seen_at,
            expires_at: self.0.header.expires_at,
            idle_timeout: self.idle_timeout(),
            persistent: self.0.header.persistent,
            data: data.unwrap_or_else(|_| unreachable!("the data of a session is JSON")),
        }
    }

    /// Returns whether both are one copy, not two equal ones.
    #[cfg(feature = "memory")]
    pub(crate) fn is_same_copy(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the bytes that a copy takes, without what an allocator adds.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<SessionFields>() + self.0.slice.len()
    }
}

impl fmt::Debug for Session {
    /// Prints the session without its data, which may be private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.0.header.id)
            .field("user_id", &self.user_id())
            .field("version", &self.0.header.version)
            .field("expires_at", &self.0.header.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_session_hides_its_data() {
        let at = Timestamp::from_micros(0);
        let parts = SessionParts::new(SessionId::random(), "alice", at);
        let data = data_to_json("secret-data").unwrap();
        let session = Session::from(SessionParts { data, ..parts });
        assert!(!format!("{session:?}").contains("secret-data"));
        assert_eq!(session.data::<String>().unwrap(), "secret-data");
        assert!(session.data::<u32>().is_err());
    }
}
