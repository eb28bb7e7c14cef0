//! Tower middleware that validates session tokens through Redis, with Postgres as the source of
//! truth.
//!
//! [`SessionCacheLayer`] validates the session token of every request. It looks in Redis first and
//! falls back to Postgres. Redis holds copies, which may be lost, late, stale or forged.
//!
//! ```no_run
//! # #[cfg(feature = "axum")] mod example {
//! use axum::{Router, routing::get};
//! use session_layer::{Session, SessionCacheLayer, Sessions};
//!
//! async fn app() -> Result<Router, session_layer::ConfigError> {
//!     let sessions = Sessions::from_env().await?; // DATABASE_URL, REDIS_URL
//!     Ok(Router::new()
//!         .route("/me", get(|session: Session| async move { session.user_id().to_owned() }))
//!         .layer(SessionCacheLayer::new(sessions)))
//! }
//! # }
//! ```
//!
//! # Request flow
//!
//! 1. [`SessionCacheService`] reads the token from `Authorization: Bearer` or from a cookie. A
//!    malformed token costs no look-up.
//! 2. One `GET` looks up the token's SHA-256, the [`TokenDigest`], in Redis. A fresh entry is
//!    served.
//! 3. On a miss, the node acquires a *lease* on the key and then reads Postgres in one statement.
//!    Postgres' clock decides whether the session is active.
//! 4. A valid request reaches the inner service with a [`Session`] in its extensions. An invalid
//!    one is rejected with 401. If an outage leaves the result unknown, the response is 503.
//! 5. After the response, the node fills the entry in the background if its lease is intact.
//!
//! Every change, such as [`Sessions::revoke`], [`update`](Sessions::update) or
//! [`rotate`](Sessions::rotate), runs as fence, COMMIT, UNLINK. Its result states [when it
//! holds](Visibility).
//!
//! # Failures
//!
//! | failure | effect |
//! |---|---|
//! | Redis is down, absent, or rejects commands | Postgres serves every validation |
//! | Redis hangs or is slow | requests wait up to 50 ms until the [breaker](BreakerState) opens |
//! | Redis is flushed, evicts keys, restarts, fails over | misses, then new fills |
//! | Postgres is overloaded | reads are batched, and the excess gets 503 at once |
//! | Postgres is down | cached sessions remain valid, others get 503, logins and logouts fail |
//! | both are down | 503 with `Retry-After`, never 401, and no cookie is cleared |
//! | the cache is [switched off](Sessions::set_mode) | none: changes still invalidate entries |
//!
//! Redis is used again as soon as it recovers.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `redis` | yes | [`cache::RedisCache`] |
//! | `postgres` | yes | [`store::PostgresStore`] |
//! | `tls` | yes | `rediss://` and TLS to Postgres: rustls with ring and the system's roots |
//! | `axum` | no | extractors for axum 0.8 |
//! | `metrics` | no | `metrics::Publisher`, for every exporter of the facade `metrics` |
//! | `memory` | no | `MemoryCache`, the cache in this process, over any store |
//! | `sqlite` | no | `SqliteStore`, for one process. Implies `memory` |
//!
//! # Settings
//!
//! Setters take any value. The end of a builder (`build`) checks the values and returns
//! [`ConfigError::BadValue`], which names the setting, its value and what is allowed.
//!
//! # Stability
//!
//! The extension points [`cache::SessionCache`] and [`store::SessionStore`], and the types that
//! only they use, are outside of semantic versioning until 1.0. Any release may change them.

// The layers, in the order of a request. Each imports only those below it (`tests/layers.rs`).
pub mod cache;
mod engine;
pub mod health;
pub mod http;
mod model;
mod sessions;
pub mod store;

pub mod connect {
    //! The settings of connections to servers.

    #[cfg(feature = "redis")]
    pub use crate::cache::{ConnectCause, ConnectError};
    pub use crate::model::credentials::{
        BoxFuture, Credential, Credentials, CredentialsError, PasswordFile,
    };
    pub use crate::model::tls::TlsSettings;
}

pub mod cookie {
    //! The parts of a session cookie.

    pub use crate::http::cookie::{SameSite, SessionCookieBuilder, SetCookie};
}

pub mod defaults {
    //! The default values of the settings, each with the reason for its number.

    pub use crate::engine::breaker::DEFAULT_SLOW_LOOKUP_THRESHOLD;
    pub use crate::engine::housekeeping::DEFAULT_RETENTION;
    pub use crate::engine::staleness::DEFAULT_JOURNAL_INTERVAL;
    pub use crate::model::session::DEFAULT_LIFETIME;
    pub use crate::sessions::builder::{
        DEFAULT_CHANGE_WAIT, DEFAULT_TTL, DEFAULT_VALIDATION_TIMEOUT,
    };
}

pub mod environment {
    //! The settings in the environment, for tools beside the application.

    pub use crate::sessions::env::EnvSettings;
}

pub mod error {
    //! The error types. The root has [`Error`](crate::Error) and
    //! [`ConfigError`](crate::ConfigError).

    pub use crate::cache::seal::SealingKeysError;
    pub use crate::model::clock::ParseTimestampError;
    pub use crate::model::error::{
        CacheError, CacheErrorKind, DataError, InputError, RandomError, StoreError, StoreErrorKind,
    };
    pub use crate::model::server_url::ServerUrlError;
    pub use crate::model::session::{
        LoginSnapshotError, ParseListCursorError, ParseSessionIdError,
    };
    pub use crate::model::token::TokenError;
    pub use crate::sessions::ShutdownError;
}

pub mod limits {
    //! The limits on lengths and counts.

    pub use crate::model::session::{
        LIST_PAGE, MAX_DATA_BYTES, MAX_LABEL_CHARS, MAX_LIFETIME, MAX_REASON_CHARS,
        MAX_REVOKED_IDS, MAX_USER_AGENT_CHARS, MAX_USER_ID_CHARS,
    };
    pub use crate::model::token::MAX_TOKEN_BYTES;
}

#[cfg(feature = "metrics")]
pub mod metrics {
    //! Metrics for every exporter of the facade [`metrics`]: Prometheus, OpenTelemetry
    //! and others. [`METRICS`] has their names and meanings. For a snapshot without an exporter,
    //! there is [`Sessions::metrics`](crate::Sessions::metrics).

    pub use crate::engine::instruments::catalog::{METRICS, MetricDescription, MetricKind};
    pub use crate::engine::instruments::histogram::LATENCY_BUCKETS;
    pub use crate::sessions::publisher::Publisher;
}

pub mod traces {
    //! The spans that a subscriber of [`tracing`] gets. [`SPANS`] has their names, attributes and
    //! meanings, and [`TARGET`] selects them. Without an interested subscriber there are none.

    pub use crate::model::spans::{SPANS, SpanDescription, TARGET};
}

pub mod server_url {
    //! The addresses of the servers.

    pub use crate::model::server_url::{ServerKind, ServerUrl};
}

pub use self::cache::seal::SealingKeys;
pub use self::engine::breaker::BreakerState;
pub use self::engine::cache_mode::CacheMode;
pub use self::engine::change::{Applied, Visibility};
pub use self::engine::metrics::Metrics;
pub use self::engine::staleness::PartitionPolicy;
pub use self::engine::validation::{Source, Validation};
pub use self::health::HealthService;
pub use self::http::cookie::SessionCookie;
pub use self::http::extract::TokenSource;
pub use self::http::finish::LookupInfo;
pub use self::http::layer::SessionCacheLayer;
pub use self::http::reject::Rejection;
pub use self::http::service::SessionCacheService;
pub use self::model::clock::Timestamp;
pub use self::model::error::{ConfigError, Error};
pub use self::model::session::{
    ListCursor, LoginSnapshot, NewSession, Session, SessionId, SessionPage, SessionSummary,
};
pub use self::model::token::{AsToken, OpaqueTokens, SessionToken, TokenDigest, TokenScheme};
pub use self::sessions::builder::SessionsBuilder;
pub use self::sessions::login::Login;
pub use self::sessions::request_sessions::RequestSessions;
pub use self::sessions::revocation::{Revocation, RevokeTarget};
pub use self::sessions::{Created, Rotated, Sessions};
