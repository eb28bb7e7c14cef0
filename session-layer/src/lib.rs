//! Tower middleware that answers one question for every request: whose session is this, and may
//! it still be used?

// The modules in the order of a request: edge, driver, ports, values. Imports go down only.

// driver
mod builder;
mod driver;
mod env;
mod metrics;
mod pending;
mod revoke;
mod sessions;
mod validate;

// ports and their adapters
pub mod cache;
pub mod store;

// values
mod clock;
#[cfg(feature = "redis")]
mod codec;
mod error;
mod session;
mod token;

pub use self::builder::{DEFAULT_BUDGET, DEFAULT_TTL, SessionsBuilder};
pub use self::clock::{ParseTimestampError, Timestamp};
pub use self::error::{
    CacheError, CacheErrorKind, ConfigError, DataError, Error, InputError, RandomError, StoreError,
    StoreErrorKind,
};
pub use self::metrics::Metrics;
pub use self::revoke::{Changed, Reach};
pub use self::session::{
    CheckedSession, DEFAULT_LIFETIME, ListedSession, MAX_DATA_BYTES, MAX_LABEL_CHARS,
    MAX_USER_AGENT_CHARS, MAX_USER_ID_CHARS, NewSession, ParseSessionIdError, Session, SessionId,
    SessionParts,
};
pub use self::sessions::{Created, Mode, Rotated, Sessions, ShutdownError};
pub use self::token::{
    MAX_TOKEN_BYTES, NotAToken, OpaqueTokens, SessionToken, TokenDigest, TokenScheme,
};
pub use self::validate::{Tier, Validation};
