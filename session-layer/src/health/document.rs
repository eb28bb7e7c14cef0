//! The health document: what it always had, in its order, then what we added.

use http::StatusCode;
use serde::{Serialize, Serializer};

use crate::breaker::BreakerState;
use crate::cache::Rejected;
use crate::clock::Timestamp;
use crate::sessions::Mode;

/// The health document. It serializes to the JSON that
/// [`HealthService::report`](crate::HealthService::report) answers; what is unknown is `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HealthReport {
    /// The whole in one word.
    pub status: HealthStatus,
    /// When this was found, by this machine's clock.
    pub timestamp: Timestamp,
    /// The Redis server.
    pub redis: RedisHealth,
    /// The cache of sessions, whatever it is kept in.
    pub session_cache: CacheHealth,
    /// How long each step of this very probe took, in ms.
    pub performance: Performance,
    /// What went wrong in this probe and in the last 60 s, and what to do; newest first, at most 10.
    pub errors: Vec<String>,
    /// The Postgres server.
    pub postgres: PostgresHealth,
    /// The store of sessions, whatever it is kept in.
    pub session_store: StoreHealth,
    /// Whether this process uses the cache: `on` or `bypass`.
    #[serde(serialize_with = "mode_in_words")]
    pub mode: Mode,
    /// Are the entries in Redis sealed ([`SealingKeys`](crate::SealingKeys))? `None` where there are
    /// none: sessions are cached in this process, or not at all.
    pub sealed: Option<bool>,
    /// Whether requests ask the cache, given how look-ups went lately.
    pub breaker: BreakerHealth,
    /// Whether this process knows what others changed. `None` where there are no others: sessions are cached in
    /// this process, or not at all.
    pub journal: Option<JournalHealth>,
    /// What this probe found that is worth knowing, and takes nothing away: it does not change the status.
    pub remarks: Vec<String>,
}

/// The whole in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthStatus {
    /// All is well.
    Healthy,
    /// Sessions are validated, but something is wrong: the cache is slow, or there were errors. Also
    /// where the cache is down and bypassed.
    Degraded,
    /// The cache cannot be asked. Postgres validates sessions while it can.
    Unhealthy,
}

/// What is known of the Redis server. All of it is unknown, and `connected` false, where the cache is
/// kept in this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RedisHealth {
    /// Did it answer the probe?
    pub connected: bool,
    /// Its version.
    pub version: Option<String>,
    /// For how many seconds it is up.
    pub uptime: Option<u64>,
    /// Its memory as it prints it (`used_memory_human`).
    pub used_memory: Option<String>,
    /// All keys of its database, those of other applications included.
    pub total_keys: Option<u64>,
}

/// The state of the cache of sessions.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CacheHealth {
    /// False in bypass.
    pub enabled: bool,
    /// Did PING, SET and GET of this probe all succeed?
    pub healthy: bool,
    /// What validations found in it, since the start of this process.
    pub metrics: CacheMetrics,
    /// Its connections.
    pub pool: PoolHealth,
    /// `redis` or `memory`.
    pub backend: &'static str,
    /// What was found in it and could never be served, since the start of this process, by why.
    pub rejected: Rejected,
}

/// What validations found in the cache: each is a hit, a miss or an error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CacheMetrics {
    /// Answered from the cache.
    pub hits: u64,
    /// Not in the cache.
    pub misses: u64,
    /// The cache could not be asked.
    pub errors: u64,
    /// The sum of the three.
    pub total: u64,
    /// Hits in percent of the total; 0 where nothing was asked.
    pub hit_rate: f64,
    /// How many seconds an entry may be served.
    pub ttl: u64,
}

/// Connections to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PoolHealth {
    /// At most.
    pub size: usize,
    /// Those that could take a command now; none where the server did not answer.
    pub available: usize,
    /// Callers waiting for one.
    pub pending: usize,
}

/// How long each step of the probe took, in ms; `None` where it failed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Performance {
    /// PING.
    pub ping: Option<f64>,
    /// SET of a key of our own.
    pub set: Option<f64>,
    /// GET of that key.
    pub get: Option<f64>,
}

/// What is known of the Postgres server. `connected` is false where sessions are kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PostgresHealth {
    /// Can it answer?
    pub connected: bool,
}

/// The state of the store of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StoreHealth {
    /// Can it answer?
    pub healthy: bool,
    /// `postgres` or `sqlite`.
    pub backend: &'static str,
}

/// The breaker before the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BreakerHealth {
    /// `closed`: the cache is asked; `open` or `half-open`: it is not, and sessions are read from the
    /// store.
    pub state: BreakerState,
    /// How often it has opened since the start of this process.
    pub opened: u64,
}

/// How far this process has read the journal of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct JournalHealth {
    /// How many ms ago the last read that succeeded began; `None`: it has read nothing yet, and believes no copy.
    pub age_ms: Option<u64>,
    /// D, in ms: older than that, this process is cut off, and sessions ended elsewhere may live on in it (or,
    /// under `fail-closed`, no copy is served).
    pub within_ms: u64,
}

impl HealthReport {
    /// The whole in one word.
    #[must_use]
    pub const fn status(&self) -> HealthStatus {
        self.status
    }

    /// 200, or 503 for [`HealthStatus::Unhealthy`].
    #[must_use]
    pub const fn http_status(&self) -> StatusCode {
        match self.status {
            HealthStatus::Healthy | HealthStatus::Degraded => StatusCode::OK,
            HealthStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn mode_in_words<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match mode {
        Mode::On => "on",
        Mode::Bypass => "bypass",
    })
}
