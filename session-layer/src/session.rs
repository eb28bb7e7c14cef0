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
use crate::error::{DataError, InputError};

/// The absolute lifetime of a session that does not name one: 24 hours.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest user id, in characters; the shortest is 1.
pub const MAX_USER_ID_CHARS: usize = 200;
/// The most that a session's data may be, serialized as JSON, in bytes.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// The longest label, in characters.
pub const MAX_LABEL_CHARS: usize = 200;
/// A longer user agent is cut to this many characters: it comes from outside and is only shown.
pub const MAX_USER_AGENT_CHARS: usize = 500;

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

/// A session to be created: whose, for how long, with what in it.
///
/// ```
/// use std::time::Duration;
/// use session_layer::NewSession;
///
/// let new = NewSession::new("alice")
///     .data(serde_json::json!({ "theme": "dark" }))
///     .label("Firefox on Linux")
///     .lifetime(Duration::from_secs(12 * 3600))
///     .idle_timeout(Duration::from_secs(30 * 60));
/// # let _ = new;
/// ```
#[derive(Debug)]
#[must_use]
pub struct NewSession {
    user_id: String,
    data: Option<Result<Box<RawValue>, serde_json::Error>>,
    label: Option<String>,
    ip: Option<IpAddr>,
    user_agent: Option<String>,
    lifetime: Duration,
    idle_timeout: Option<Duration>,
}

impl NewSession {
    /// A session of this user: 1–200 characters, the application's own name for them.
    pub fn new(user_id: impl Into<String>) -> Self {
        Self {
            user_id: user_id.into(),
            data: None,
            label: None,
            ip: None,
            user_agent: None,
            lifetime: DEFAULT_LIFETIME,
            idle_timeout: None,
        }
    }

    /// What the application keeps in the session, at most 64 KiB as JSON. Defaults to `{}`.
    pub fn data(mut self, data: impl Serialize) -> Self {
        self.data = Some(serde_json::value::to_raw_value(&data));
        self
    }

    /// A name for the user's list of sessions, at most 200 characters. Defaults to none.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The address the login came from. Defaults to none.
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// The client the login came from; cut after 500 characters. Defaults to none.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// When the session ends, however much it is used (the absolute timeout), counted from its
    /// creation. Defaults to 24 hours.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// When the session ends if it goes unused, in whole seconds. Defaults to none.
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = Some(idle_timeout);
        self
    }

    /// Checks every limit, before any store is asked: for stores and their tests.
    ///
    /// # Errors
    /// [`InputError`] names the limit that is broken.
    pub fn check(self) -> Result<CheckedSession, InputError> {
        let data = match self.data {
            None => empty_object(),
            Some(Ok(json)) => check_data(json)?,
            Some(Err(source)) => return Err(InputError::DataNotJson(source)),
        };
        check_text("user id", &self.user_id, 1, MAX_USER_ID_CHARS)?;
        if let Some(label) = &self.label {
            check_text("label", label, 0, MAX_LABEL_CHARS)?;
        }
        let user_agent = self.user_agent.map(|agent| {
            agent
                .chars()
                .filter(|c| *c != '\0')
                .take(MAX_USER_AGENT_CHARS)
                .collect()
        });
        if self.lifetime < Duration::from_secs(1) || self.lifetime > LONGEST {
            return Err(InputError::Lifetime { what: "lifetime" });
        }
        if self
            .idle_timeout
            .is_some_and(|idle| idle < Duration::from_secs(1) || idle > LONGEST)
        {
            return Err(InputError::Lifetime {
                what: "idle timeout",
            });
        }
        Ok(CheckedSession {
            id: SessionId::random(),
            user_id: self.user_id,
            data,
            label: self.label,
            ip: self.ip,
            user_agent,
            lifetime: self.lifetime,
            idle_timeout: self.idle_timeout,
        })
    }
}

/// 50 years: beyond any use, and far from where Postgres' integers end.
const LONGEST: Duration = Duration::from_secs(50 * 365 * 24 * 60 * 60);

/// A [`NewSession`] that is within all limits: what a store is asked to create.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckedSession {
    /// The id it will have.
    pub id: SessionId,
    /// Whose it is: 1–200 characters.
    pub user_id: String,
    /// JSON of at most 64 KiB, without `\u0000`.
    pub data: Box<RawValue>,
    /// Its name in the user's list.
    pub label: Option<String>,
    /// Where the login came from.
    pub ip: Option<IpAddr>,
    /// What the login came from.
    pub user_agent: Option<String>,
    /// The absolute timeout, from now by the store's clock.
    pub lifetime: Duration,
    /// The idle timeout: whole seconds count.
    pub idle_timeout: Option<Duration>,
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| unreachable!("{{}} is JSON"))
}

/// `value` as JSON within the limits of a session's data.
pub(crate) fn data_to_json(value: impl Serialize) -> Result<Box<RawValue>, InputError> {
    check_data(serde_json::value::to_raw_value(&value).map_err(InputError::DataNotJson)?)
}

fn check_data(json: Box<RawValue>) -> Result<Box<RawValue>, InputError> {
    let text = json.get();
    if text.len() > MAX_DATA_BYTES {
        return Err(InputError::DataTooLarge {
            bytes: text.len(),
            limit: MAX_DATA_BYTES,
        });
    }
    if contains_escaped_nul(text) {
        return Err(InputError::Nul { what: "data" });
    }
    Ok(json)
}

/// Does JSON text contain the escape `\u0000`, which jsonb refuses? An escaped backslash before
/// `u0000` makes it ordinary text. (A raw NUL is no JSON.)
fn contains_escaped_nul(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        match rest.get(at + 1..) {
            Some(escape) if escape.starts_with(b"u0000") => return true,
            Some(escape) => rest = escape.get(1..).unwrap_or_default(),
            None => return false,
        }
    }
    false
}

fn check_text(what: &'static str, text: &str, min: usize, max: usize) -> Result<(), InputError> {
    if text.contains('\0') {
        return Err(InputError::Nul { what });
    }
    let chars = text.chars().count();
    if chars < min || chars > max {
        return Err(InputError::Length {
            what,
            chars,
            min,
            max,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_are_typed_errors() {
        let check = |new: NewSession| new.check().map(|_| ()).map_err(|e| e.to_string());
        assert!(check(NewSession::new("a".repeat(200))).is_ok());
        assert!(check(NewSession::new("é".repeat(200))).is_ok());
        for (new, says) in [
            (NewSession::new(""), "user id"),
            (NewSession::new("a".repeat(201)), "user id"),
            (NewSession::new("a\0b"), "NUL"),
            (NewSession::new("a").label("l".repeat(201)), "label"),
            (NewSession::new("a").data("x".repeat(65_536)), "65536"),
            (NewSession::new("a").data("a\0b"), "NUL"),
            (NewSession::new("a").lifetime(Duration::ZERO), "lifetime"),
            (
                NewSession::new("a").idle_timeout(Duration::MAX),
                "idle timeout",
            ),
        ] {
            let error = check(new).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(check(NewSession::new("a").data("x".repeat(65_534))).is_ok());
    }

    proptest! {
        #[test]
        fn an_escaped_nul_is_found_exactly_where_there_is_one(text in r#"[\\u0a"\x00]{0,12}"#) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(contains_escaped_nul(&json), text.contains('\0'));
        }
    }

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
            data: data_to_json("secret-data").unwrap(),
        });
        assert!(!format!("{session:?}").contains("secret-data"));
        assert_eq!(session.data::<String>().unwrap(), "secret-data");
        assert!(session.data::<u32>().is_err());
    }
}
