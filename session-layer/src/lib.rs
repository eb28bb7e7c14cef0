//! Tower middleware that answers one question for every request: whose session is this, and may
//! it still be used?

// The modules in the order of a request: edge, driver, ports, values. Imports go down only.

// edge
mod answered;
#[cfg(feature = "axum")]
mod axum;
mod body;
mod cookie;
mod extract;
mod future;
mod health;
mod layer;
mod reject;
mod service;

// driver
mod builder;
mod driver;
mod env;
mod metrics;
mod pending;
mod probe;
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

pub use self::answered::Answered;
#[cfg(feature = "axum")]
pub use self::axum::SessionRejection;
pub use self::body::ResponseBody;
pub use self::cookie::{SameSite, SessionCookie, SetCookie};
pub use self::extract::TokenSource;
pub use self::future::ResponseFuture;
pub use self::health::{
    CacheHealth, CacheMetrics, HealthFuture, HealthReport, HealthService, HealthStatus,
    Performance, PoolHealth, PostgresHealth, RedisHealth, StoreHealth,
};
pub use self::layer::SessionCacheLayer;
pub use self::reject::Rejection;
pub use self::service::SessionCacheService;

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
