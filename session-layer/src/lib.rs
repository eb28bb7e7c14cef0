//! Tower middleware that answers one question for every request: *whose session is this, and may
//! it still be used?* It looks in Redis first and falls back to Postgres by itself; Postgres is the
//! truth, Redis a copy that may be lost, late, stale or hostile.
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
//! # The way of a request
//!
//! 1. [`SessionCacheService`] extracts the token from `Authorization: Bearer` or a cookie, strictly.
//!    What cannot be a token costs no look-up.
//! 2. The token's SHA-256, its [`TokenDigest`], is looked up in Redis: one `GET`. A copy that is
//!    believed answers.
//! 3. Else the *lease* to fill is taken, and then Postgres is asked, in one statement, by its own clock.
//! 4. The request goes on with a [`Session`] in its extensions, or is answered with 401 (Postgres said
//!    no) or 503 (nobody could say). Behind the answer the copy is put into Redis, if the lease still
//!    stands.
//!
//! Every change ([`Sessions::revoke`], [`update`](Sessions::update), [`rotate`](Sessions::rotate), …) goes
//! one way: fence, COMMIT, UNLINK. Its answer says how far it [reaches](Reach).
//!
//! # What happens when …
//!
//! | | what users notice |
//! |---|---|
//! | Redis is down, refuses, or was never there | nothing: Postgres answers, and Redis is used again when it is back |
//! | Redis hangs or is slow | those under way wait for its deadline (50 ms); then the [breaker](BreakerState) is open, and nobody waits: as above |
//! | more requests than Postgres can answer in time | what can't be answered within the budget is 503 at once, the rest is read in few large reads |
//! | Redis is flushed, evicts, restarts from an old dump, fails over | nothing: a miss, and a refill |
//! | Postgres is down, Redis up | who has a copy in Redis goes on; others 503; no one can log in or out |
//! | both are down | 503 with `Retry-After`; never a 401, never a cleared cookie |
//! | the cache is switched off ([`Sessions::set_mode`]) | nothing; it still invalidates, so turning it on again is safe |
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `redis` | yes | [`cache::RedisCache`] |
//! | `postgres` | yes | [`store::PostgresStore`] |
//! | `tls` | yes | `rediss://`, and TLS to Postgres: rustls with ring and the system's roots |
//! | `axum` | no | extractors for axum 0.8 |
//! | `sqlite` | no | the embedded pair, for one process: `SqliteStore` and `MemoryCache` |

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
mod presented;
mod reject;
mod service;

// driver
mod breaker;
mod builder;
mod bulkhead;
mod coalesce;
mod deadline;
mod driver;
mod env;
mod housekeeping;
mod journal;
mod login;
mod metrics;
mod pending;
mod probe;
mod reads;
mod revoke;
mod sessions;
mod touch;
mod troubles;
mod validate;

// ports and their adapters
pub mod cache;
pub mod store;

// values
mod clock;
#[cfg(feature = "redis")]
mod codec;
mod error;
mod seal;
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
    BreakerHealth, CacheHealth, CacheMetrics, HealthFuture, HealthReport, HealthService,
    HealthStatus, JournalHealth, Performance, PoolHealth, PostgresHealth, RedisHealth, StoreHealth,
};
pub use self::layer::SessionCacheLayer;
pub use self::presented::PresentedSessions;
pub use self::reject::Rejection;
pub use self::service::SessionCacheService;

pub use self::breaker::{BreakerState, DEFAULT_SLOW_CALL};
pub use self::builder::{DEFAULT_BUDGET, DEFAULT_TTL, SessionsBuilder};
pub use self::clock::{ParseTimestampError, Timestamp};
pub use self::error::{
    CacheError, CacheErrorKind, ConfigError, DataError, Error, InputError, RandomError, StoreError,
    StoreErrorKind,
};
pub use self::housekeeping::DEFAULT_RETENTION;
pub use self::journal::{DEFAULT_JOURNAL_INTERVAL, Policy};
pub use self::login::Login;
pub use self::metrics::Metrics;
pub use self::revoke::{Changed, Reach};
pub use self::seal::{InvalidSealingKeys, SealingKeys};
pub use self::session::{
    CheckedSession, DEFAULT_LIFETIME, ListedSession, LoginMoment, MAX_DATA_BYTES, MAX_LABEL_CHARS,
    MAX_USER_AGENT_CHARS, MAX_USER_ID_CHARS, NewSession, NoLoginMoment, ParseSessionIdError,
    Session, SessionId, SessionParts,
};
pub use self::sessions::{Created, Mode, Rotated, Sessions, ShutdownError};
pub use self::token::{
    MAX_TOKEN_BYTES, NotAToken, OpaqueTokens, SessionToken, TokenDigest, TokenScheme,
};
pub use self::validate::{Tier, Validation};
