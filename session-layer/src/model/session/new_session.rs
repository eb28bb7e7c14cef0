//! A session to be created, and its limits.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{LoginSnapshot, SessionId};
use crate::model::error::InputError;

/// The absolute lifetime of a session that sets none: 24 hours. A user then logs in about once a
/// day, and a stolen token is of use for a day at most.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum length of a user id, in characters. The minimum is 1.
pub const MAX_USER_ID_CHARS: usize = 200;
/// The maximum size of a session's data, serialized as JSON, in bytes.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// The longest reason and the longest actor of a revocation, in characters. The shortest is 1.
pub const MAX_REASON_CHARS: usize = 200;
/// The maximum of sessions that one revocation names by their ids. Their rows are locked for about
/// 50 ms, and Redis removes their entries in about 5 ms.
pub const MAX_REVOKED_IDS: usize = 1_000;
/// The longest label, in characters.
pub const MAX_LABEL_CHARS: usize = 200;
/// The length to which a user agent is cut, in characters, because it is only shown.
pub const MAX_USER_AGENT_CHARS: usize = 500;

/// A session to be created: its user, its lifetime and its data.
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
    begun: Option<LoginSnapshot>,
}

impl NewSession {
    /// Creates a session of this user: 1–200 characters, the application's own name for them.
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

    /// Sets the application's data, at most 64 KiB as JSON. Defaults to `{}`.
    pub fn data(mut self, data: impl Serialize) -> Self {
        self.data = Some(serde_json::value::to_raw_value(&data));
        self
    }

    /// Sets the name in the user's list of sessions, at most 200 characters. Defaults to none.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the address of the login. Defaults to none.
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// Sets the client of the login, cut after 500 characters. Defaults to none.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Sets the absolute timeout, counted from the creation: 1 s to 50 years ([`MAX_LIFETIME`]).
    /// The session then ends even if it is in use. Defaults to [`DEFAULT_LIFETIME`], 24 hours.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the idle timeout: 1 s to 50 years ([`MAX_LIFETIME`]). A fraction of a second is rounded
    /// up. The session ends if it is not used for that long. Defaults to none.
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = Some(idle_timeout);
        self
    }

    /// Sets whether the cookie outlives the browser ("remember me"). Such a cookie carries the end
    /// of the session (`Max-Age`), and the layer sends it again if an idle timeout moves the end.
    /// Without it the cookie ends with the browser's own session, even if the session lasts longer.
    /// Defaults to false.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// Sets when the login began.
    pub(crate) fn begun(mut self, snapshot: LoginSnapshot) -> Self {
        self.begun = Some(snapshot);
        self
    }

    /// Checks every limit before a store is queried, for stores and their tests.
    ///
    /// # Errors
    /// [`InputError`] if a limit is exceeded. It names the limit.
    pub fn check(self) -> Result<ValidatedSession, InputError> {
        let data = match self.data {
            None => empty_object(),
            Some(Ok(json)) => check_data(json)?,
            Some(Err(source)) => return Err(InputError::DataNotJson(source)),
        };
        check_user_id(&self.user_id)?;
        if let Some(label) = &self.label {
            check_text("label", label, 0, MAX_LABEL_CHARS)?;
        }
        let user_agent = self
            .user_agent
            .map(|agent| agent.chars().filter(|c| *c != '\0').take(MAX_USER_AGENT_CHARS).collect());
        if self.lifetime < Duration::from_secs(1) || self.lifetime > MAX_LIFETIME {
            return Err(InputError::Lifetime { what: "lifetime" });
        }
        if self
            .idle_timeout
            .is_some_and(|idle| idle < Duration::from_secs(1) || idle > MAX_LIFETIME)
        {
            return Err(InputError::Lifetime { what: "idle timeout" });
        }
        Ok(ValidatedSession {
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

/// The longest lifetime and idle timeout of a session: 50 years, which is beyond any use and far
/// from where Postgres' integers end.
pub const MAX_LIFETIME: Duration = Duration::from_secs(50 * 365 * 24 * 60 * 60);

/// A [`NewSession`] that is within all limits, ready for a store to create.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ValidatedSession {
    /// The id of the new session.
    pub id: SessionId,
    /// The user id, of 1–200 characters.
    pub user_id: String,
    /// The data: JSON of at most 64 KiB, without `\u0000`, that can be read back.
    pub data: Box<RawValue>,
    /// The name in the user's list.
    pub label: Option<String>,
    /// The address of the login.
    pub ip: Option<IpAddr>,
    /// The client of the login.
    pub user_agent: Option<String>,
    /// The absolute timeout, counted from now by the store's clock.
    pub lifetime: Duration,
    /// The idle timeout, in whole seconds.
    pub idle_timeout: Option<Duration>,
    /// Whether the cookie outlives the browser.
    pub persistent: bool,
    /// The state of the store when the login began. `None` if the login begins with the creation.
    pub begun: Option<LoginSnapshot>,
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| unreachable!("{{}} is JSON"))
}

/// Serializes `value` as JSON, and checks the limits of a session's data.
pub(crate) fn data_to_json(value: impl Serialize) -> Result<Box<RawValue>, InputError> {
    check_data(serde_json::value::to_raw_value(&value).map_err(InputError::DataNotJson)?)
}

fn check_data(json: Box<RawValue>) -> Result<Box<RawValue>, InputError> {
    let text = json.get();
    if text.len() > MAX_DATA_BYTES {
        return Err(InputError::DataTooLarge { bytes: text.len(), limit: MAX_DATA_BYTES });
    }
    if contains_escaped_nul(text) {
        return Err(InputError::Nul { what: "data" });
    }
    // A `RawValue` has been checked for its syntax alone.
    serde_json::from_str::<serde_json::Value>(text).map_err(InputError::DataNotReadable)?;
    Ok(json)
}

/// Returns whether JSON text contains the escape `\u0000`, on which Postgres' JSON functions fail.
/// An escaped backslash before `u0000` makes it ordinary text. JSON cannot contain a raw NUL.
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

/// Checks the id of a user whose sessions are read or revoked.
pub(crate) fn check_user_id(user_id: &str) -> Result<(), InputError> {
    check_text("user id", user_id, 1, MAX_USER_ID_CHARS)
}

/// Checks the actor of a revocation.
pub(crate) fn check_actor(actor: &str) -> Result<(), InputError> {
    check_text("actor", actor, 1, MAX_REASON_CHARS)
}

/// Checks the number of sessions that one revocation names by their ids.
pub(crate) fn check_revoked_ids(ids: &[SessionId]) -> Result<(), InputError> {
    if ids.is_empty() || ids.len() > MAX_REVOKED_IDS {
        return Err(InputError::TooManyIds { ids: ids.len(), max: MAX_REVOKED_IDS });
    }
    Ok(())
}

/// Checks the reason of a revocation.
pub(crate) fn check_reason(reason: &str) -> Result<(), InputError> {
    check_text("reason", reason, 1, MAX_REASON_CHARS)
}

fn check_text(what: &'static str, text: &str, min: usize, max: usize) -> Result<(), InputError> {
    if text.contains('\0') {
        return Err(InputError::Nul { what });
    }
    let chars = text.chars().count();
    if chars < min || chars > max {
        return Err(InputError::Length { what, chars, min, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn value_beyond_a_limit_is_a_typed_error() {
        let check = |new: NewSession| new.check().map(|_| ()).map_err(|e| e.to_string());
        assert!(check(NewSession::new("a".repeat(200))).is_ok());
        assert!(check(NewSession::new("é".repeat(200))).is_ok());
        for (new, named) in [
            (NewSession::new(""), "user id"),
            (NewSession::new("a".repeat(201)), "user id"),
            (NewSession::new("a\0b"), "NUL"),
            (NewSession::new("a").label("l".repeat(201)), "label"),
            (NewSession::new("a").data("x".repeat(65_536)), "65536"),
            (NewSession::new("a").data("a\0b"), "NUL"),
            (NewSession::new("a").lifetime(Duration::ZERO), "lifetime"),
            (NewSession::new("a").idle_timeout(Duration::MAX), "idle timeout"),
        ] {
            let error = check(new).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        assert!(check(NewSession::new("a").data("x".repeat(65_534))).is_ok());
    }

    #[test]
    fn data_that_cannot_be_read_back_is_rejected() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let check = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).expect("well-formed JSON");
            data_to_json(raw).map(|_| ())
        };
        for text in [
            r#""\ud800""#,
            r#"{"\udfff": 1}"#,
            r#"["\ud800\u0041"]"#,
            "1e400",
            "[-1e999]",
            &"9".repeat(400),
            &nested(128),
            &nested(30_000),
        ] {
            let rejected = check(text);
            assert!(matches!(rejected, Err(InputError::DataNotReadable(_))), "{rejected:?}");
        }
        for text in [r#"{"a\u0000": 1}"#, r#"["\u0000"]"#] {
            assert!(matches!(check(text), Err(InputError::Nul { .. })));
        }
        for text in
            [r#""\ud83d\ude00""#, r#""\\ud800""#, "1e308", "1e-400", &"9".repeat(300), &nested(127)]
        {
            assert!(check(text).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn escaped_nul_is_found_if_and_only_if_present(text in r#"[\\u0a"\x00]{0,12}"#) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(contains_escaped_nul(&json), text.contains('\0'));
        }
    }
}
