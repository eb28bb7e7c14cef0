//! A session to be created, and the limits it has to keep.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{LoginMoment, SessionId};
use crate::error::InputError;

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
    persistent: bool,
    begun: Option<LoginMoment>,
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
            persistent: false,
            begun: None,
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

    /// Whether its cookie outlives the browser: "remember me". It then says when the session ends
    /// (`Max-Age`), and where an idle timeout moves that, the layer sends it again. Without it the cookie
    /// goes when the browser ends its own session, however long ours may last. Defaults to false.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// The login began then.
    pub(crate) fn begun(mut self, moment: LoginMoment) -> Self {
        self.begun = Some(moment);
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
            persistent: self.persistent,
            begun: self.begun,
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
    /// Its cookie outlives the browser.
    pub persistent: bool,
    /// Where the store stood when the login began; `None`: it begins with the creation.
    pub begun: Option<LoginMoment>,
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
}
