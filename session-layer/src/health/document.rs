//! The health document. New fields follow the original ones, in a fixed order.

use http::StatusCode;
use serde::{Serialize, Serializer};

use crate::cache::Rejected;
use crate::engine::breaker::BreakerState;
use crate::engine::cache_mode::CacheMode;
use crate::model::clock::Timestamp;

/// The health document. It serializes to the JSON of
/// [`HealthService::report`](crate::HealthService::report). An unknown value is `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HealthReport {
    /// The overall status.
    pub status: HealthStatus,
    /// The time of the probe, by this machine's clock.
    pub timestamp: Timestamp,
    /// The Redis server.
    pub redis: RedisHealth,
    /// The cache of sessions, with any backend.
    pub session_cache: CacheHealth,
    /// The duration of each step of this probe, in ms.
    pub performance: Performance,
    /// The errors of this probe and of the last 60 s with remedies, newest first, at most 10.
    pub errors: Vec<String>,
    /// The Postgres server.
    pub postgres: PostgresHealth,
    /// The store of sessions, with any backend.
    pub session_store: StoreHealth,
    /// The mode of the cache: `on` or `bypass`.
    #[serde(serialize_with = "serialize_mode")]
    pub mode: CacheMode,
    /// Whether the entries in Redis are sealed ([`SealingKeys`](crate::SealingKeys)). `None` if
    /// sessions are cached in this process or not at all.
    pub sealed: Option<bool>,
    /// The breaker, which decides from recent look-ups whether requests use the cache.
    pub breaker: BreakerHealth,
    /// The journal, which shows the changes of other processes. `None` if sessions are cached in
    /// this process or not at all.
    pub journal: Option<JournalHealth>,
    /// The observations of this probe that are not failures. They do not change the status.
    pub remarks: Vec<String>,
    /// The near cache of this process. `None` if it is off.
    pub near_cache: Option<NearCacheHealth>,
    /// Whether this process is paused, because there was no traffic
    /// ([`pause_without_traffic`](crate::SessionsBuilder::pause_without_traffic)). The probe does
    /// not query the store then, and the journal has no age. This is no fault.
    pub paused: bool,
}

/// The overall status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthStatus {
    /// All components work.
    Healthy,
    /// Sessions are validated, but a component is impaired: the cache is slow, or there were
    /// errors. Also the status if the cache is down and bypassed.
    Degraded,
    /// The cache is unreachable. Postgres validates sessions if it is up.
    Unhealthy,
}

/// The state of the Redis server. With an in-process cache, `connected` is false, the rest unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RedisHealth {
    /// Whether Redis responded to the probe.
    pub connected: bool,
    /// The version.
    pub version: Option<String>,
    /// The uptime in seconds.
    pub uptime: Option<u64>,
    /// The memory in use, as the server formats it (`used_memory_human`).
    pub used_memory: Option<String>,
    /// The number of keys in the database, including those of other applications.
    pub total_keys: Option<u64>,
    /// The product: `redis`, `valkey` or another name that the server reports.
    pub server: Option<String>,
}

/// The state of the cache of sessions.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CacheHealth {
    /// Whether the cache is used. False in bypass.
    pub enabled: bool,
    /// Whether PING, SET and GET of this probe all succeeded.
    pub healthy: bool,
    /// The results of look-ups since the start of this process.
    pub metrics: CacheMetrics,
    /// The connections to the cache.
    pub pool: PoolHealth,
    /// The backend: `redis` or `memory`.
    pub backend: &'static str,
    /// The values found since the start of this process that can never be served, by reason.
    pub rejected: Rejected,
}

/// The results of look-ups in the cache. Each is a hit, a miss or an error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CacheMetrics {
    /// The number of validations served from the cache.
    pub hits: u64,
    /// The number of validations without an entry.
    pub misses: u64,
    /// The number of validations for which the cache could not be queried.
    pub errors: u64,
    /// The sum of the three.
    pub total: u64,
    /// The hits in percent of the total, or 0 without look-ups.
    pub hit_rate: f64,
    /// The TTL of an entry, in seconds.
    pub ttl: u64,
}

/// The connections to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PoolHealth {
    /// The maximum number of connections.
    pub size: usize,
    /// The connections that could execute a command now. 0 if the server did not respond.
    pub available: usize,
    /// The number of callers that wait for a connection.
    pub pending: usize,
}

/// The duration of each step of the probe in ms, or `None` if the step failed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Performance {
    /// The duration of PING.
    pub ping: Option<f64>,
    /// The duration of SET on the probe's own key.
    pub set: Option<f64>,
    /// The duration of GET on that key.
    pub get: Option<f64>,
}

/// The state of the Postgres server. `connected` is false if another store is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PostgresHealth {
    /// Whether Postgres responded to the probe. False while the process is paused.
    pub connected: bool,
}

/// The state of the store of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StoreHealth {
    /// Whether the store responded to the probe. True while the process is paused, which then does
    /// not query it.
    pub healthy: bool,
    /// The backend: `postgres` or `sqlite`.
    pub backend: &'static str,
}

/// The breaker in front of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BreakerHealth {
    /// The state. `closed`: requests use the cache. `open` or `half-open`: requests read the store.
    pub state: BreakerState,
    /// The number of times it opened since the start of this process.
    pub opened: u64,
}

/// The progress of this process in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct JournalHealth {
    /// The time since the last successful read began, in ms. `None` before the first read, until
    /// which no entry is served, and while the process is paused.
    pub age_ms: Option<u64>,
    /// The staleness bound D, in ms. Beyond it, the process is partitioned. It may then serve
    /// sessions that have ended elsewhere, or no entries under `fail-closed`.
    pub within_ms: u64,
}

/// The cache in this process, in front of Redis
/// ([`near_cache`](crate::SessionsBuilder::near_cache)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct NearCacheHealth {
    /// The number of validations that it served. They are among the hits of the session cache.
    pub hits: u64,
    /// The number of entries now.
    pub entries: u64,
    /// The bytes that they take now.
    pub bytes: u64,
    /// The limit of those bytes.
    pub limit_bytes: u64,
}

impl HealthReport {
    /// Returns 200, or 503 for [`HealthStatus::Unhealthy`].
    #[must_use]
    pub const fn http_status(&self) -> StatusCode {
        match self.status {
            HealthStatus::Healthy | HealthStatus::Degraded => StatusCode::OK,
            HealthStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn serialize_mode<S: Serializer>(mode: &CacheMode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match mode {
        CacheMode::On => "on",
        CacheMode::Bypass => "bypass",
    })
}
