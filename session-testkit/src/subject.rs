//! What is tested: the one small trait that a project implements for its own session cache.
//!
//! A subject is several *nodes* (processes, or handles that share nothing but the stores) over one
//! cache and one database. The workload calls it, the history records what it answered, and the
//! checker decides from that alone; so an implementation only translates, and never repairs:
//!
//! - what the cache answers goes through unchanged, an error as [`Seen::Unavailable`] only if the
//!   application would answer 503 for it;
//! - [`Failed::Refused`] says "nothing was changed", and the subject is held to that; where it can't be
//!   known, say [`Failed::Unknown`];
//! - a plain `Ok(())` of a delete means [`Reach::Propagated`] to whoever called it.
//!
//! ```
//! use std::{collections::HashMap, sync::Mutex};
//! use session_testkit::subject::{Failed, Login, Reach, Seen, Subject, Token};
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
//!     async fn revoke(&self, _node: u32, token: &Token) -> Result<Reach, Failed> {
//!         self.0.lock().map_err(Failed::unknown)?.remove(token.reveal());
//!         Ok(Reach::Propagated)
//!     }
//! }
//! ```

mod session_layer;

use std::{fmt, future::Future, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::session_layer::SessionLayerSubject;

/// A session cache under test, on one or several nodes.
///
/// Its futures may be dropped at any await, as a server drops those of clients that went away.
pub trait Subject: Send + Sync + 'static {
    /// How many nodes there are. They are called by number: `0..nodes()`.
    fn nodes(&self) -> u32;

    /// Begins a login, where the subject tells beginning and end apart: what stands for this moment, to be given
    /// back in [`Login::begun`]. Defaults to `None`: the whole login is [`create`](Self::create), and counts from
    /// that call on.
    ///
    /// With it R13 is asked of what the subject promises: a revoke-all that is called after this was answered ends
    /// the session, however much later `create` is called.
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

    /// Whose session is this, and may it still be used?
    fn validate(&self, node: u32, token: &Token) -> impl Future<Output = Seen> + Send;

    /// Ends the session.
    fn revoke(
        &self,
        node: u32,
        token: &Token,
    ) -> impl Future<Output = Result<Reach, Failed>> + Send;

    /// Replaces the session's data. Defaults to [`Failed::Unsupported`].
    fn update(
        &self,
        _node: u32,
        _token: &Token,
        _data: &str,
    ) -> impl Future<Output = Result<Reach, Failed>> + Send {
        std::future::ready(Err(Failed::Unsupported))
    }

    /// Ends all of the user's sessions. Defaults to [`Failed::Unsupported`].
    fn revoke_all(
        &self,
        _node: u32,
        _user: &str,
    ) -> impl Future<Output = Result<Reach, Failed>> + Send {
        std::future::ready(Err(Failed::Unsupported))
    }

    /// Gives the session a new token; the old one is good for `grace` still. Defaults to
    /// [`Failed::Unsupported`].
    fn rotate(
        &self,
        _node: u32,
        _token: &Token,
        _grace: Duration,
    ) -> impl Future<Output = Result<(Token, Reach), Failed>> + Send {
        std::future::ready(Err(Failed::Unsupported))
    }

    /// A token as the subject gives them out, but one that nobody gave out, of these random bytes.
    /// Defaults to 43 characters of base64url.
    ///
    /// If the subject refuses its form, the test of random tokens tests nothing.
    fn random_token(&self, random: [u8; 32]) -> Token {
        Token::base64url(random)
    }
}

/// What a session token is to the test: the secret that [`Subject::create`] gave out. Its `Debug` is
/// redacted, so that a test's own log is not where raw tokens are found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Box<str>);

impl Token {
    /// A token of this text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// 32 bytes as 43 characters of base64url without padding.
    #[must_use]
    pub fn base64url(bytes: [u8; 32]) -> Self {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let text: String = bytes
            .chunks(3)
            .flat_map(|chunk| {
                let group = (0..3).fold(0_usize, |group, at| {
                    group << 8 | usize::from(chunk.get(at).copied().unwrap_or(0))
                });
                let chars = [18, 12, 6, 0].map(|shift| char::from(ALPHABET[group >> shift & 63]));
                chars.into_iter().take(chunk.len() + 1)
            })
            .collect();
        Self::new(text)
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// A login: whose session, with what in it, for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// What [`Subject::validate`] must give back. Every write of a run has a text of its own, so that
    /// the checker knows which one was seen.
    pub data: String,
    /// The absolute timeout; `None`: the subject's own default, and no check of expiry.
    pub lifetime: Option<Duration>,
    /// The idle timeout; `None`: none.
    pub idle: Option<Duration>,
    /// What [`Subject::begin_login`] said; `None`: the login has no beginning of its own.
    pub begun: Option<String>,
}

impl Login {
    /// With the subject's own timeouts.
    pub fn new(user: impl Into<String>, data: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            data: data.into(),
            lifetime: None,
            idle: None,
            begun: None,
        }
    }
}

/// The answer of a validation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Seen {
    /// The session may be used.
    Valid {
        /// Whose it is.
        user: String,
        /// What is in it.
        data: String,
    },
    /// There is no such session, or it has ended: a 401.
    Invalid,
    /// Nobody could say: a 503.
    Unavailable,
}

/// How far a change reaches, as the subject answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// From the answer on, no node honours the old state.
    Propagated,
    /// It is committed; every node honours it after these spans at the latest.
    Committed {
        /// For nodes in touch with the database.
        within: Duration,
        /// For every node.
        at_most: Duration,
    },
    /// There was nothing to change: no such session that is alive.
    Nothing,
}

/// Why a change was not made, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Nothing was changed, and the subject is held to that.
    #[error("refused: {0}")]
    Refused(String),
    /// It may have been changed or not.
    #[error("of unknown fate: {0}")]
    Unknown(String),
    /// The subject has no such operation. Nothing is recorded; the report counts it.
    #[error("not supported")]
    Unsupported,
}

impl Failed {
    /// [`Failed::Refused`], with a reason that goes into the history.
    pub fn refused(why: impl fmt::Display) -> Self {
        Self::Refused(why.to_string())
    }

    /// [`Failed::Unknown`], with a reason that goes into the history. Also for [`Result::map_err`].
    pub fn unknown(why: impl fmt::Display) -> Self {
        Self::Unknown(why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_token_is_base64url_of_its_bytes() {
        let mut bytes = [0_u8; 32];
        bytes[..4].copy_from_slice(&[0xfb, 0xff, 0xbf, 0x01]);
        bytes[31] = 0xff;
        // What `base64 -w0 | tr +/ -_ | tr -d =` gives.
        let expected = "-_-_AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8";
        assert_eq!(Token::base64url(bytes).reveal(), expected);
        let token = session_layer_digest(expected);
        assert!(token, "session-layer takes it for one of its own");
    }

    fn session_layer_digest(token: &str) -> bool {
        use ::session_layer::{OpaqueTokens, TokenScheme as _};
        OpaqueTokens.digest(token).is_ok()
    }

    #[test]
    fn a_token_is_not_shown_by_its_debug() {
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(redacted)");
    }
}
