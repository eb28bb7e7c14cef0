//! The trait that a project implements to test its own session cache.
//!
//! A subject is several *nodes* over one cache and one database. Nodes are processes, or handles
//! that share only the servers. The workload calls the subject, the history records its results,
//! and the checker decides from these alone. An implementation therefore only translates:
//!
//! - It returns the cache's result unchanged. An error is [`Seen::Unavailable`] only if the
//!   application would return 503 for it.
//! - [`Failed::Refused`] means that nothing was changed, and the checker relies on it. If that is
//!   not certain, the implementation must return [`Failed::Unknown`].
//! - A plain `Ok(())` of a delete means [`Visibility::Propagated`] to its caller.
//!
//! ```
//! use std::{collections::HashMap, sync::Mutex};
//! use session_testkit::subject::{Failed, Login, Seen, Subject, Token, Visibility};
//!
//! #[derive(Default)]
//! struct MyCache(Mutex<HashMap<String, (String, String)>>);
//!
//! impl Subject for MyCache {
//!     fn nodes(&self) -> u32 { 1 }
//!
//!     async fn create(&self, _node: u32, login: &Login) -> Result<Token, Failed> {
//!         let mut sessions = self.0.lock().map_err(Failed::unknown)?;
//!         let token = format!("token-{}", sessions.len());
//!         sessions.insert(token.clone(), (login.user.clone(), login.data.clone()));
//!         Ok(Token::new(token))
//!     }
//!
//!     async fn validate(&self, _node: u32, token: &Token) -> Seen {
//!         let Ok(sessions) = self.0.lock() else { return Seen::Unavailable };
//!         match sessions.get(token.reveal()) {
//!             Some((user, data)) => Seen::Valid { user: user.clone(), data: data.clone() },
//!             None => Seen::Invalid,
//!         }
//!     }
//!
//!     async fn revoke(&self, _node: u32, token: &Token) -> Result<Visibility, Failed> {
//!         self.0.lock().map_err(Failed::unknown)?.remove(token.reveal());
//!         Ok(Visibility::Propagated)
//!     }
//! }
//! ```

mod session_layer;

use std::{fmt, future::Future, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::session_layer::SessionLayerSubject;

/// A session cache under test, on one or several nodes.
///
/// Its futures may be dropped at any await, as a server drops them after a disconnect.
pub trait Subject: Send + Sync + 'static {
    /// Returns the number of nodes. They are numbered `0..nodes()`.
    fn nodes(&self) -> u32;

    /// Begins a login, if the subject has a separate beginning. Returns a text for this moment,
    /// which becomes [`Login::begun`]. By default it returns `None`: the login begins with the call
    /// of [`create`](Self::create).
    ///
    /// With a beginning, R13 is checked as the subject promises it. A revoke-all called after this
    /// returned ends the session, however much later `create` is called.
    fn begin_login(
        &self,
        _node: u32,
    ) -> impl Future<Output = Result<Option<String>, Failed>> + Send {
        std::future::ready(Ok(None))
    }

    /// Logs a user in.
    fn create(
        &self,
        node: u32,
        login: &Login,
    ) -> impl Future<Output = Result<Token, Failed>> + Send;

    /// Validates the token, and returns its user and data.
    fn validate(&self, node: u32, token: &Token) -> impl Future<Output = Seen> + Send;

    /// Ends the session.
    fn revoke(
        &self,
        node: u32,
        token: &Token,
    ) -> impl Future<Output = Result<Visibility, Failed>> + Send;

    /// Replaces the session's data. By default it returns [`Failed::Unsupported`].
    fn update(
        &self,
        _node: u32,
        _token: &Token,
        _data: &str,
    ) -> impl Future<Output = Result<Visibility, Failed>> + Send {
        std::future::ready(Err(Failed::Unsupported))
    }

    /// Ends all of the user's sessions. By default it returns [`Failed::Unsupported`].
    fn revoke_all(
        &self,
        _node: u32,
        _user: &str,
    ) -> impl Future<Output = Result<Visibility, Failed>> + Send {
        std::future::ready(Err(Failed::Unsupported))
    }

    /// Gives the session a new token. The old one remains valid for `grace`. By default it returns
    /// [`Failed::Unsupported`].
    fn rotate(
        &self,
        _node: u32,
        _token: &Token,
        _grace: Duration,
    ) -> impl Future<Output = Result<(Token, Visibility), Failed>> + Send {
        std::future::ready(Err(Failed::Unsupported))
    }

    /// Returns a token of the subject's form that was never issued, from these random bytes. By
    /// default it is 43 characters of base64url.
    ///
    /// If the subject refuses its form, the check of random tokens tests nothing.
    fn random_token(&self, random: [u8; 32]) -> Token {
        Token::base64url(random)
    }
}

/// A session token: the secret that [`Subject::create`] returned. Its `Debug` is redacted, so that
/// a test's own log contains no raw tokens.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Box<str>);

impl Token {
    /// Creates a token of this text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Encodes 32 bytes as 43 characters of base64url without padding.
    #[must_use]
    pub fn base64url(bytes: [u8; 32]) -> Self {
        Self::new(::session_layer::TokenDigest::from_bytes(bytes).to_base64url())
    }

    /// Returns the secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// A login: the user, the session's data and its timeouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The data that [`Subject::validate`] must return. Every write of a run has unique data, by
    /// which the checker identifies it.
    pub data: String,
    /// The absolute timeout. `None`: the subject's default, without a check of the expiry.
    pub lifetime: Option<Duration>,
    /// The idle timeout, if there is one.
    pub idle: Option<Duration>,
    /// The text from [`Subject::begin_login`]. `None`: the login has no separate beginning.
    pub begun: Option<String>,
}

impl Login {
    /// Creates a login with the subject's own timeouts.
    pub fn new(user: impl Into<String>, data: impl Into<String>) -> Self {
        Self { user: user.into(), data: data.into(), lifetime: None, idle: None, begun: None }
    }
}

/// The result of a validation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Seen {
    /// The session is active.
    Valid {
        /// The session's user.
        user: String,
        /// The session's data.
        data: String,
    },
    /// The session does not exist or has ended: status 401.
    Invalid,
    /// An outage leaves the result unknown: status 503.
    Unavailable,
}

/// The visibility of a change, as the subject returned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// No node serves the old state from the result on.
    Propagated,
    /// The change is committed. Every node respects it within these times.
    Committed {
        /// For nodes that are connected to the database.
        within: Duration,
        /// For every node.
        at_most: Duration,
    },
    /// There was nothing to change, because no such session is active.
    Nothing,
}

/// The reason why a change was not made, or may not have been made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Nothing was changed. The checker relies on it.
    #[error("refused: {0}")]
    Refused(String),
    /// The change may have been made or not.
    #[error("unknown result: {0}")]
    Unknown(String),
    /// The subject has no such operation. It is not recorded, but counted in the report.
    #[error("not supported")]
    Unsupported,
}

impl Failed {
    /// Creates a [`Failed::Refused`] with a reason for the history.
    pub fn refused(why: impl fmt::Display) -> Self {
        Self::Refused(why.to_string())
    }

    /// Creates a [`Failed::Unknown`] with a reason for the history. It suits [`Result::map_err`].
    pub fn unknown(why: impl fmt::Display) -> Self {
        Self::Unknown(why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_token_has_the_form_of_session_layer() {
        use ::session_layer::{OpaqueTokens, TokenScheme as _};
        let token = Token::base64url([0xfb; 32]);
        assert_eq!(token.reveal().len(), 43);
        assert!(OpaqueTokens.digest(token.reveal()).is_ok());
    }

    #[test]
    fn token_debug_is_redacted() {
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(redacted)");
    }
}
