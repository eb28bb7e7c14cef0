//! Errors: typed, with their source, saying what to do.

use std::error::Error as StdError;
use std::fmt;

type Source = Box<dyn StdError + Send + Sync>;

/// Why something that was asked of [`Sessions`](crate::Sessions) did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was passed in breaks a limit; no store was asked.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Not one of the tokens that the [`TokenScheme`](crate::TokenScheme) accepts.
    #[error(transparent)]
    NotAToken(#[from] crate::token::NotAToken),
    /// There is no such session that is alive: unknown, expired or revoked.
    #[error("there is no such session, or it has ended")]
    NoSession,
    /// The session was changed since the copy at hand was read: read it again, then decide.
    #[error(
        "the session was changed by someone else in the meantime (compare-and-set on its version)"
    )]
    VersionConflict,
    /// Another request rotated this token first; its answer carries the new one.
    #[error("the token was already rotated; the answer to that rotation carries the new one")]
    AlreadyRotated,
    /// While this login was under way, all of the user's sessions were revoked: log in again.
    #[error("all sessions of the user were revoked while this login was under way")]
    LoginSuperseded,
    /// A session with this token exists already.
    #[error("a session with this token exists already")]
    TokenTaken,
    /// Postgres could not be asked, or refused: nothing was changed.
    #[error("the session store could not answer; nothing was changed")]
    Unavailable(#[source] StoreError),
    /// Postgres' answer was lost: the change may have been committed or not. If it was, it holds within the
    /// bounds of [`Reach::Committed`](crate::Reach::Committed). Calling again is safe.
    #[error(
        "the session store's answer was lost; the change may or may not have been made (calling again is safe)"
    )]
    Unknown(#[source] StoreError),
    /// No random bytes for a new token.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl Error {
    /// Is it an outage, to be answered with 503 and tried again, rather than with a 4xx?
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Unknown(_) | Self::Random(_)
        )
    }
}

/// A limit that the input breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// Too short or too long, in characters.
    #[error("the {what} has {chars} characters; it may have {min} to {max}")]
    Length {
        /// What was too long or too short.
        what: &'static str,
        /// How long it was.
        chars: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// A NUL character, which neither Postgres' text nor its jsonb can hold.
    #[error("the {what} contains a NUL character, which the database cannot store")]
    Nul {
        /// What contained it.
        what: &'static str,
    },
    /// More data than a session may hold.
    #[error("the data is {bytes} bytes of JSON; a session may hold {limit}")]
    DataTooLarge {
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// Data that cannot be serialized as JSON.
    #[error("the data cannot be serialized as JSON")]
    DataNotJson(#[source] serde_json::Error),
    /// A span of time out of bounds.
    #[error("the {what} must be between 1 second and 50 years")]
    Lifetime {
        /// Which span.
        what: &'static str,
    },
}

/// A configuration that cannot work. No secret is ever part of its message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that is none of those there may be.
    #[error("{name} is `{was}`; it may be {may_be}")]
    BadValue {
        /// The setting or environment variable.
        name: &'static str,
        /// What it was.
        was: String,
        /// What it may be.
        may_be: &'static str,
    },
    /// An address that is none. It is not repeated: it may hold a password.
    #[error("{name} is not an address; it may be {may_be}")]
    BadUrl {
        /// The setting or environment variable.
        name: &'static str,
        /// What it may be.
        may_be: &'static str,
        /// What is wrong with it.
        #[source]
        source: Source,
    },
    /// Sealing keys that are none, or a file of them that can't be read. Nothing of them is repeated.
    #[error("{name} cannot be used: {source}; it may be {may_be}")]
    BadKeys {
        /// The environment variable.
        name: &'static str,
        /// What it may be.
        may_be: &'static str,
        /// What is wrong with it.
        source: Source,
    },
    /// Settings that exclude each other.
    #[error("{0}")]
    Combination(&'static str),
    /// Something this build of the crate leaves out.
    #[error("{needed_for} needs session-layer's cargo feature `{feature}`")]
    MissingFeature {
        /// The feature to turn on.
        feature: &'static str,
        /// For what.
        needed_for: &'static str,
    },
    /// There is no Tokio runtime here to run background tasks on.
    #[error("sessions need a Tokio runtime: build them inside of one")]
    NoRuntime,
    /// The store could not be opened or migrated.
    #[error("the session store cannot be used: {0}")]
    Store(#[source] StoreError),
}

impl ConfigError {
    pub(crate) fn bad(name: &'static str, was: impl Into<String>, may_be: &'static str) -> Self {
        // Long enough to recognize it by.
        let was = was.into().chars().take(80).collect();
        Self::BadValue { name, was, may_be }
    }

    pub(crate) fn bad_keys(
        name: &'static str,
        may_be: &'static str,
        source: impl Into<Source>,
    ) -> Self {
        let source = source.into();
        Self::BadKeys {
            name,
            may_be,
            source,
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn redis_url(source: Source) -> Self {
        Self::BadUrl {
            name: "REDIS_URL",
            may_be: "redis://HOST:PORT/DB or rediss://…",
            source,
        }
    }
}

/// Session data that is not of the type asked for.
#[derive(Debug, thiserror::Error)]
#[error("the session's data is not of the type asked for")]
pub struct DataError(#[source] pub(crate) serde_json::Error);

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomError(#[source] Source);

impl RandomError {
    pub(crate) fn from_source(source: getrandom::Error) -> Self {
        Self(Box::new(source))
    }
}

/// What a [`SessionStore`](crate::store::SessionStore) could not do, and what to do about it.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<Source>,
}

/// The kinds of [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No connection could be had, or it broke before anything was asked.
    Unreachable,
    /// No answer within the deadline.
    TimedOut,
    /// It answered, but its answer is not the truth: a replica in recovery, or rows that may be
    /// hidden by row-level security.
    NotAuthoritative,
    /// Our role lacks a right, or the server is read-only.
    Denied,
    /// Our tables are missing or not as they should be: migrate.
    Schema,
    /// The change was sent and its answer lost: it may have been committed.
    Uncertain,
    /// Anything else the store reports.
    Other,
}

impl StoreError {
    /// An error of this kind. `message` says what happened and what to do; no secret goes into it.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Uncertain => Self::Unknown(error),
            _ => Self::Unavailable(error),
        }
    }
}

/// What a [`SessionCache`](crate::cache::SessionCache) could not do. It never fails a request: Postgres
/// is asked instead.
#[derive(Debug)]
pub struct CacheError {
    kind: CacheErrorKind,
    message: String,
    source: Option<Source>,
}

/// The kinds of [`CacheError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheErrorKind {
    /// No connection.
    Unreachable,
    /// No answer within the deadline.
    TimedOut,
    /// The server is not a master: after a failover a demoted server still answers reads.
    NotMaster,
    /// The server refused the command (OOM, MISCONF, NOPERM, LOADING, NOAUTH, …).
    Refused,
    /// It answered something that is no answer to what was asked.
    Protocol,
    /// The session can't be made an entry of the cache: too large, or no random bytes to seal it with.
    Entry,
    /// It was not asked: look-ups failed or were slow of late (the breaker is open).
    NotAsked,
}

impl CacheError {
    /// An error of this kind. `message` says what happened and what to do; no secret goes into it.
    pub fn new(kind: CacheErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> CacheErrorKind {
        self.kind
    }
}

macro_rules! display_with_source {
    ($($error:ty),*) => {$(
        impl fmt::Display for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.message)
            }
        }
        impl StdError for $error {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
            }
        }
    )*};
}
display_with_source!(StoreError, CacheError);
