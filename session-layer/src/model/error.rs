//! Typed errors. Each has its source, and its message states what to do.

use std::error::Error as StdError;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

type Source = Box<dyn StdError + Send + Sync>;

/// The error of a failed call of [`Sessions`](crate::Sessions).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input that no session can hold. Nothing was changed, and a retry does not help. This is
    /// not an outage: respond with 400.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A text that the [`TokenScheme`](crate::TokenScheme) does not accept as a token.
    #[error(transparent)]
    NotAToken(#[from] crate::model::token::TokenError),
    /// No active session matches: it is unknown, expired or revoked.
    #[error("there is no such session, or it has ended")]
    NoSession,
    /// A change of the session since the supplied copy was read. Read it again, then decide.
    #[error("the session was changed since it was read (its version differs): read it again")]
    VersionConflict,
    /// An earlier rotation of this token by another request. Its response has the new token.
    #[error("the token was already rotated: the response to that rotation has the new one")]
    AlreadyRotated,
    /// A revoke-all of the user's sessions during this login. Log in again.
    #[error("all sessions of the user were revoked during this login: log in again")]
    LoginSuperseded,
    /// An existing session with this token.
    #[error("a session with this token exists already")]
    TokenTaken,
    /// An outage of Postgres, or a rejected command. Nothing was changed.
    #[error("the session store is unavailable, and nothing was changed: try again")]
    Unavailable(#[source] StoreError),
    /// A lost reply. The change may have been committed. If it was, it holds within the bounds of
    /// [`Visibility::Committed`](crate::Visibility::Committed). A retry is safe.
    #[error(
        "the session store's reply was lost: the change may have been committed, and a retry is \
         safe"
    )]
    Unknown(#[source] StoreError),
    /// A lack of random bytes for a new token.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl Error {
    /// Returns whether this is an outage, which calls for a 503 and a retry rather than a 4xx.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_) | Self::Random(_))
    }
}

/// The reason why an input was rejected. All but [`Refused`](Self::Refused) are detected before a
/// store is queried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A text that is too short or too long, counted in characters.
    #[error("the {what} has {chars} characters: pass {min} to {max}")]
    Length {
        /// The text in question.
        what: &'static str,
        /// Its length.
        chars: usize,
        /// The minimum.
        min: usize,
        /// The maximum.
        max: usize,
    },
    /// A NUL character, which Postgres cannot store, or `\u0000`, which its JSON functions reject.
    #[error("the {what} contains a NUL character, which the database cannot hold: remove it")]
    Nul {
        /// The text in question.
        what: &'static str,
    },
    /// More data than a session may hold.
    #[error(
        "the data is {bytes} bytes of JSON and a session holds at most {limit}: keep less in it, \
         for example a key of a table of your own"
    )]
    DataTooLarge {
        /// Its size.
        bytes: usize,
        /// The maximum.
        limit: usize,
    },
    /// Data that cannot be serialized as JSON.
    #[error("the data cannot be serialized as JSON")]
    DataNotJson(#[source] serde_json::Error),
    /// Well-formed JSON that [`Session::data`](crate::Session::data) could not read back. It has a
    /// lone surrogate (`\ud800`), a number beyond the range of `f64` (`1e400`), or over 127 nested
    /// arrays and objects.
    #[error(
        "the data is JSON that cannot be read back ({0}): it may have no lone surrogate, no number \
         beyond the range of f64, and at most 127 nested levels"
    )]
    DataNotReadable(#[source] serde_json::Error),
    /// More sessions than one revocation may name, or none.
    #[error("the revocation names {ids} sessions: pass 1 to {max}")]
    TooManyIds {
        /// How many it names.
        ids: usize,
        /// The maximum.
        max: usize,
    },
    /// A span of time out of bounds.
    #[error("the {what} must be between 1 second and 50 years")]
    Lifetime {
        /// The span in question.
        what: &'static str,
    },
    /// A value that the store rejects. Its database may have an encoding without one of the
    /// characters, or an operator may have added a constraint.
    #[error(transparent)]
    Refused(StoreError),
}

/// A configuration that cannot work. The message never contains a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that the setting does not allow.
    #[error("{name} is `{was}`: it may be {may_be}")]
    BadValue {
        /// The setting, such as `SessionsBuilder::ttl`, or the environment variable.
        name: &'static str,
        /// The value, cut after 80 characters.
        was: String,
        /// The allowed values.
        may_be: &'static str,
    },
    /// A URL that cannot be used. The message repeats no part of it, because it may hold a
    /// password.
    #[error("{name} cannot be used: {source}. It may be {may_be}")]
    BadUrl {
        /// The setting or environment variable.
        name: &'static str,
        /// The allowed values.
        may_be: &'static str,
        /// The reason.
        source: Source,
    },
    /// A setting that has an effect only with Postgres or Redis, while neither `DATABASE_URL` nor
    /// `REDIS_URL` is set.
    #[error(
        "{name} is set, but neither DATABASE_URL nor REDIS_URL is. Sessions would be kept in a \
         SQLite file of this process alone. Set both URLs, or unset {name}, or set \
         DATABASE_URL=sqlite:PATH to use that file"
    )]
    NoServers {
        /// The environment variable.
        name: &'static str,
    },
    /// Invalid sealing keys, or a file of keys that cannot be read. The message repeats no part of
    /// them.
    #[error("{name} cannot be used: {source}. It may be {may_be}")]
    BadKeys {
        /// The environment variable.
        name: &'static str,
        /// The allowed values.
        may_be: &'static str,
        /// The reason.
        source: Source,
    },
    /// A certificate, a key or a CA that cannot be read or used.
    #[error("TLS cannot be configured: {0}")]
    Tls(#[source] Source),
    /// Settings that exclude each other.
    #[error("{0}")]
    Combination(&'static str),
    /// A capability that this build of the crate leaves out.
    #[error("{needed_for} needs session-layer's cargo feature `{feature}`")]
    MissingFeature {
        /// The feature to turn on.
        feature: &'static str,
        /// The capability.
        needed_for: &'static str,
    },
    /// A missing Tokio runtime, which the background tasks need.
    #[error("sessions need a Tokio runtime: build them inside of one")]
    NoRuntime,
    /// A store that could not be opened or migrated.
    #[error("the session store cannot be used: {0}")]
    Store(#[source] StoreError),
}

impl ConfigError {
    pub(crate) fn bad(name: &'static str, was: impl Into<String>, may_be: &'static str) -> Self {
        let was = was.into().chars().take(80).collect();
        Self::BadValue { name, was, may_be }
    }

    /// Returns an error unless the value is within the range that `may_be` states.
    pub(crate) fn check_range<T: Copy + PartialOrd + fmt::Debug>(
        name: &'static str,
        value: T,
        range: &RangeInclusive<T>,
        may_be: &'static str,
    ) -> Result<(), Self> {
        if range.contains(&value) {
            return Ok(());
        }
        Err(Self::bad(name, format!("{value:?}"), may_be))
    }

    pub(crate) fn bad_keys(
        name: &'static str,
        may_be: &'static str,
        source: impl Into<Source>,
    ) -> Self {
        let source = source.into();
        Self::BadKeys { name, may_be, source }
    }

    #[cfg(all(feature = "tls", any(feature = "redis", feature = "postgres")))]
    pub(crate) fn tls(source: impl Into<Source>) -> Self {
        Self::Tls(source.into())
    }

    pub(crate) fn redis_url(name: &'static str, source: impl Into<Source>) -> Self {
        let may_be = "redis://HOST:PORT/DB, rediss://…, redis+sentinel://HOST,HOST/SERVICE/DB or \
         redis+cluster://HOST,HOST";
        Self::BadUrl { name, may_be, source: source.into() }
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres_url(source: impl Into<Source>) -> Self {
        let may_be = "postgres://USER:PASSWORD@HOST:PORT/DATABASE";
        Self::BadUrl { name: "the Postgres URL", may_be, source: source.into() }
    }
}

/// Session data that is not of the requested type.
///
/// The message names the place of the mismatch and its category. It does not repeat the data, as
/// the error of `serde_json` would. Errors end up in logs, and the data may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the session's data is not of the requested type ({category} at line {line}, column {column})"
)]
pub struct DataError {
    category: &'static str,
    line: usize,
    column: usize,
}

impl DataError {
    /// Returns the line of the stored JSON at which the mismatch was found, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Returns the column of that line, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }
}

impl From<serde_json::Error> for DataError {
    fn from(error: serde_json::Error) -> Self {
        use serde_json::error::Category;
        Self {
            category: match error.classify() {
                Category::Data => "another shape or type",
                Category::Syntax => "a syntax error",
                Category::Eof => "an unexpected end",
                Category::Io => "an error of reading",
            },
            line: error.line(),
            column: error.column(),
        }
    }
}

/// A failure of the operating system to supply random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomError(#[source] Source);

impl RandomError {
    pub(crate) fn from_source(source: getrandom::Error) -> Self {
        Self(Box::new(source))
    }
}

/// The error of a [`SessionStore`](crate::store::SessionStore) call, with what to do about it.
/// Callers that share one read get a clone each.
#[derive(Debug, Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No connection, or one that broke before anything was sent.
    Unreachable,
    /// No reply within the deadline.
    TimedOut,
    /// A reply that proves nothing: from a replica in recovery, or with rows that row-level
    /// security may hide.
    NotAuthoritative,
    /// A right that our role lacks, a user or password that is rejected, a read-only server, or
    /// another kind of server.
    Denied,
    /// Tables of ours that are missing or not as they should be: migrate.
    Schema,
    /// A change whose result was lost, or replaced by the error of a pooler. It may have been
    /// committed.
    Uncertain,
    /// A value from the caller that the store rejects. Nothing was changed, and it is not an
    /// outage.
    Input,
    /// A call that was not sent. Too many callers wait for the store, so its reply would have come
    /// too late. Nothing was changed.
    Shed,
    /// Any other error of the store.
    Other,
}

impl StoreErrorKind {
    /// Returns the name that metrics and traces have, such as `timed_out`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::NotAuthoritative => "not_authoritative",
            Self::Denied => "denied",
            Self::Schema => "schema",
            Self::Uncertain => "uncertain",
            Self::Input => "input",
            Self::Shed => "shed",
            Self::Other => "other",
        }
    }
}

impl StoreError {
    /// Creates an error of this kind. `message` states what happened and what to do, and contains
    /// no secret.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Replaces the message.
    #[cfg(feature = "postgres")]
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Uncertain => Self::Unknown(error),
            StoreErrorKind::Input => Self::Input(InputError::Refused(error)),
            _ => Self::Unavailable(error),
        }
    }
}

/// The error of a [`SessionCache`](crate::cache::SessionCache) call. It never fails a request,
/// because the node then reads Postgres. Callers that share one failure get a clone each.
#[derive(Debug, Clone)]
pub struct CacheError {
    kind: CacheErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`CacheError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheErrorKind {
    /// No connection.
    Unreachable,
    /// No reply within the deadline.
    TimedOut,
    /// A server that is not a master. After a failover a demoted server still answers reads.
    NotMaster,
    /// A command that the server rejected (OOM, MISCONF, NOPERM, LOADING, NOAUTH, …).
    Refused,
    /// A reply that does not fit the command.
    Protocol,
    /// A session that cannot become an entry: it is too large, or there are no random bytes to seal
    /// it with.
    Entry,
    /// A part of the cache, such as a shard of a cluster, has no usable connection. The keys of
    /// other parts can be used.
    PartUnavailable,
    /// A call that was not sent, because recent look-ups failed or were slow (the breaker is open).
    NotQueried,
}

impl CacheErrorKind {
    /// Returns the name that metrics and traces have, such as `timed_out`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::NotMaster => "not_master",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
            Self::Entry => "entry",
            Self::PartUnavailable => "part_unavailable",
            Self::NotQueried => "not_queried",
        }
    }
}

impl CacheError {
    /// Creates an error of this kind. `message` states what happened and what to do, and contains
    /// no secret.
    pub fn new(kind: CacheErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns the kind of the error.
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

/// Returns the first cause of this type, the error itself included.
#[cfg(any(feature = "postgres", all(feature = "redis", feature = "tls")))]
pub(crate) fn cause_of<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an I/O error is that of its content, so the content is looked at. The
        // client library of Redis has its own source in an `Arc`.
        next = if let Some(io) = error.downcast_ref::<std::io::Error>() {
            io.get_ref().map(|inner| inner as &(dyn StdError + 'static))
        } else if let Some(shared) = error.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
            Some(&**shared)
        } else {
            error.source()
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_error_has_the_place_and_not_the_data() {
        for (data, line, column) in
            [(r#""hunter2""#, 1, 9), ("{\n\"hunter2\": 1}", 1, 0), ("[1,\n\"hunter2\"]", 2, 9)]
        {
            let error = serde_json::from_str::<Vec<u8>>(data).unwrap_err();
            assert_eq!(error.line(), line, "{error}");
            let error = DataError::from(error);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("another shape or type"), "{shown}");
            assert_eq!((error.line(), error.column()), (line, column));
            assert!(error.source().is_none());
        }
    }

    #[cfg(all(feature = "redis", feature = "tls"))]
    #[test]
    fn cause_is_found_below_other_errors() {
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let error = redis::RedisError::from(std::io::Error::other(inner.clone()));
        assert_eq!(cause_of(&error), Some(&inner));
        assert_eq!(cause_of::<rustls::Error>(&std::io::Error::other("text")), None);
    }
}
