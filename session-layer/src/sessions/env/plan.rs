//! The plan that the variables describe, as a pure function of them.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::cache::seal::{SEALING_KEYS, SealingKeys};
use crate::cache::{NAMESPACE, is_namespace};
use crate::engine::breaker::DEFAULT_SLOW_LOOKUP_THRESHOLD;
use crate::engine::cache_mode::CacheMode;
use crate::engine::housekeeping::DEFAULT_RETENTION;
use crate::engine::staleness::{DEFAULT_JOURNAL_INTERVAL, PartitionPolicy};
use crate::model::error::ConfigError;
use crate::model::server_url::{ServerKind, ServerUrl, ServerUrlError};
use crate::model::tls::TlsSettings;
use crate::sessions::builder::{DEFAULT_CHANGE_WAIT, DEFAULT_VALIDATION_TIMEOUT};
use crate::store::{DEFAULT_SCHEMA, SCHEMA_NAME, is_schema_name};

/// The path of the sessions' file without `DATABASE_URL`.
const DEFAULT_PATH: &str = "session-layer.db";
const DATABASE_URLS: &str = "postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH";
const BOOLEAN: &str = "true, false, 1 or 0";

/// The variables that have an effect only with Postgres or Redis. A deployment that sets one of
/// them expects these servers, so the default of a SQLite file would be a mistake there.
const NEEDS_SERVERS: [&str; 33] = [
    "DATABASE_PASSWORD_FILE",
    "DATABASE_TLS_CA_FILE",
    "DATABASE_TLS_CERT_FILE",
    "DATABASE_TLS_KEY_FILE",
    "DATABASE_TLS_INSECURE",
    "REDIS_PASSWORD_FILE",
    "REDIS_SENTINEL_USERNAME",
    "REDIS_SENTINEL_PASSWORD",
    "REDIS_SENTINEL_PASSWORD_FILE",
    "REDIS_TLS_CA_FILE",
    "REDIS_TLS_CERT_FILE",
    "REDIS_TLS_KEY_FILE",
    "REDIS_TLS_SERVER_NAME",
    "REDIS_TLS_INSECURE",
    "SESSION_CACHE_NAMESPACE",
    "SESSION_CACHE_POLICY",
    "SESSION_CACHE_KEY",
    "SESSION_CACHE_KEY_FILE",
    "SESSION_CACHE_POOL_SIZE",
    "SESSION_CACHE_REPLICATED",
    "SESSION_CACHE_DEADLINE_MS",
    "SESSION_CACHE_SLOW_MS",
    "SESSION_NEAR_CACHE_MB",
    "SESSION_PAUSE_AFTER",
    "SESSION_JOURNAL_INTERVAL_MS",
    "SESSION_DB_SCHEMA",
    "SESSION_DB_MIGRATE",
    "SESSION_DB_POOLED",
    "SESSION_DB_POOL_SIZE",
    "SESSION_DB_START_TIMEOUT",
    "SESSION_DB_CONCURRENT_READS",
    "SESSION_DB_READ_DEADLINE_MS",
    "SESSION_DB_CHANGE_DEADLINE_MS",
];

/// The least and the most of a duration in milliseconds, with the text for its error.
type Milliseconds = (std::ops::RangeInclusive<u64>, &'static str);

const FROM_0_MS: Milliseconds = (0..=86_400_000, "whole milliseconds from 0 to 86400000");
const FROM_1_MS: Milliseconds = (1..=86_400_000, "whole milliseconds from 1 to 86400000");
const FROM_10_MS: Milliseconds = (10..=86_400_000, "whole milliseconds from 10 to 86400000");
/// Those of `PostgresStoreBuilder`.
const STATEMENT_MS: Milliseconds = (10..=60_000, "whole milliseconds from 10 to 60000");

/// 50 years, the longest lifetime of a session.
const MOST_RETENTION_DAYS: u64 = 18_250;

/// The stores and settings that the variables describe.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) stores: Stores,
    pub(super) handle: EnvSettings,
}

/// The settings of the handle in the environment, or their defaults. [`read`](Self::read) reads
/// them, for tools beside the application. The builders of the servers have their settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvSettings {
    /// [`SessionsBuilder::ttl`](crate::SessionsBuilder::ttl)
    pub ttl: Duration,
    /// [`SessionsBuilder::mode`](crate::SessionsBuilder::mode)
    pub mode: CacheMode,
    /// [`SessionsBuilder::policy`](crate::SessionsBuilder::policy)
    pub policy: PartitionPolicy,
    /// [`SessionsBuilder::validation_timeout`](crate::SessionsBuilder::validation_timeout)
    pub validation_timeout: Duration,
    /// [`SessionsBuilder::slow_lookup_threshold`](crate::SessionsBuilder::slow_lookup_threshold)
    pub slow_lookup_threshold: Duration,
    /// [`SessionsBuilder::change_wait`](crate::SessionsBuilder::change_wait)
    pub change_wait: Duration,
    /// [`SessionsBuilder::journal_interval`](crate::SessionsBuilder::journal_interval)
    pub journal_interval: Duration,
    /// [`SessionsBuilder::max_concurrent_reads`](crate::SessionsBuilder::max_concurrent_reads).
    /// `None`: what the store advises.
    pub max_concurrent_reads: Option<usize>,
    /// [`SessionsBuilder::near_cache`](crate::SessionsBuilder::near_cache), in bytes.
    pub near_cache: usize,
    /// [`SessionsBuilder::pause_without_traffic`](crate::SessionsBuilder::pause_without_traffic)
    pub pause_after: Duration,
    /// [`SessionsBuilder::retention`](crate::SessionsBuilder::retention)
    pub retention: Option<Duration>,
    /// [`SessionsBuilder::trace_ids`](crate::SessionsBuilder::trace_ids)
    pub trace_ids: bool,
}

/// The store and the cache. There are only three combinations, so that an in-process cache never
/// reaches production by accident.
#[derive(PartialEq, Eq)]
pub(super) enum Stores {
    /// SQLite and an in-process cache, for one process. `is_default`: no variable requests them.
    Embedded { path: String, is_default: bool },
    /// Postgres and Redis.
    Shared { database: Database, redis: Box<Redis> },
    /// Postgres alone, with the cache off.
    StoreOnly { database: Database },
}

#[derive(PartialEq, Eq)]
pub(super) struct Database {
    pub(super) url: ServerUrl,
    pub(super) settings: DatabaseSettings,
}

/// The settings of Postgres beside its URL.
#[derive(PartialEq, Eq)]
pub(super) struct DatabaseSettings {
    pub(super) pool_size: u32,
    pub(super) schema: String,
    pub(super) migrate: bool,
    pub(super) pooled: bool,
    pub(super) password_file: Option<String>,
    pub(super) tls: TlsSettings,
    /// How long the start waits for a Postgres that accepts no connections yet.
    pub(super) start_timeout: Duration,
    pub(super) read_deadline: Option<Duration>,
    pub(super) change_deadline: Option<Duration>,
}

#[derive(PartialEq, Eq)]
pub(super) struct Redis {
    pub(super) url: ServerUrl,
    pub(super) settings: RedisSettings,
}

/// The settings of Redis beside its URL.
#[derive(PartialEq, Eq)]
pub(super) struct RedisSettings {
    pub(super) namespace: String,
    pub(super) pool_size: usize,
    pub(super) deadline: Option<Duration>,
    pub(super) replicated: bool,
    pub(super) keys: Option<Keys>,
    pub(super) tls: TlsSettings,
    pub(super) password_file: Option<String>,
    pub(super) sentinel_user: Option<String>,
    pub(super) sentinel_password: Option<SentinelPassword>,
}

/// The password of sentinels.
#[derive(PartialEq, Eq)]
pub(super) enum SentinelPassword {
    This(Zeroizing<String>),
    InFile(String),
}

/// The keys that seal entries.
#[derive(PartialEq, Eq)]
pub(super) enum Keys {
    These(SealingKeys),
    InFile(String),
}

impl std::fmt::Debug for Stores {
    /// Formats no addresses, because they may contain passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Embedded { .. } => "Embedded",
            Self::Shared { .. } => "Shared",
            Self::StoreOnly { .. } => "StoreOnly",
        })
    }
}

/// Reads the variables. `get` is the environment.
pub(super) fn plan(get: impl Fn(&str) -> Option<String>) -> Result<Plan, ConfigError> {
    let get = |name: &'static str| get(name).filter(|value| !value.trim().is_empty());
    let handle = env_settings_of(&get)?;
    // These are read even if they are not used, to report a bad one before it is needed.
    let settings = redis_settings_of(&get)?;
    let database_settings = database_settings_of(&get)?;
    let database_url = get("DATABASE_URL");
    let redis_url = get("REDIS_URL");
    let sqlite_path = match database_url.as_deref() {
        None => Some(DEFAULT_PATH),
        Some(url) => sqlite_path(url)?,
    };

    let stores = if let Some(path) = sqlite_path {
        if redis_url.is_some() {
            return Err(ConfigError::Combination(
                "REDIS_URL works with a DATABASE_URL of postgres:// only: set that too, or unset \
                 REDIS_URL to use the in-process cache",
            ));
        }
        let is_default = database_url.is_none();
        let counts_on_servers = NEEDS_SERVERS.into_iter().find(|name| get(name).is_some());
        if let (true, Some(name)) = (is_default, counts_on_servers) {
            return Err(ConfigError::NoServers { name });
        }
        Stores::Embedded { path: path.to_owned(), is_default }
    } else {
        let url = database_url.unwrap_or_default();
        let database = Database {
            url: server_url(&url, ServerKind::Postgres).map_err(bad_database_url)?,
            settings: database_settings,
        };
        match redis_url {
            Some(url) => Stores::Shared {
                database,
                redis: Box::new(Redis {
                    url: server_url(&url, ServerKind::Redis)
                        .map_err(|reason| ConfigError::redis_url("REDIS_URL", reason))?,
                    settings,
                }),
            },
            None if handle.mode == CacheMode::Bypass => Stores::StoreOnly { database },
            None => {
                return Err(ConfigError::Combination(
                    "DATABASE_URL is postgres:// but REDIS_URL is not set: set REDIS_URL, or \
                     SESSION_CACHE_ENABLED=false to go without a cache",
                ));
            }
        }
    };
    Ok(Plan { stores, handle })
}

/// Reads the variables of the handle.
pub(super) fn env_settings(
    get: impl Fn(&str) -> Option<String>,
) -> Result<EnvSettings, ConfigError> {
    env_settings_of(&|name| get(name).filter(|value| !value.trim().is_empty()))
}

fn env_settings_of(get: Get<'_>) -> Result<EnvSettings, ConfigError> {
    let policy =
        one_of(get, "SESSION_CACHE_POLICY", "available", "available or fail-closed", |text| {
            match text {
                "available" => Some(PartitionPolicy::Available),
                "fail-closed" => Some(PartitionPolicy::FailClosed),
                _ => None,
            }
        })?;
    let enabled = boolean(get, "SESSION_CACHE_ENABLED", "true")?;
    let seconds =
        number(get, "SESSION_CACHE_TTL", "300", "whole seconds from 1 to 86400", 1..=86_400)?;
    let near_cache = number(get, "SESSION_NEAR_CACHE_MB", "0", "0 to 1048576", 0..=1 << 20)?;
    let pause = "0, or whole seconds up to 86400";
    let pause = number(get, "SESSION_PAUSE_AFTER", "0", pause, 0..=86_400)?;
    Ok(EnvSettings {
        ttl: Duration::from_secs(seconds as u64),
        mode: if enabled { CacheMode::On } else { CacheMode::Bypass },
        policy,
        trace_ids: boolean(get, "SESSION_TRACE_IDS", "false")?,
        near_cache: near_cache.saturating_mul(1 << 20),
        pause_after: Duration::from_secs(pause as u64),
        retention: retention(get)?,
        validation_timeout: milliseconds(get, "SESSION_VALIDATION_TIMEOUT_MS", FROM_1_MS)?
            .unwrap_or(DEFAULT_VALIDATION_TIMEOUT),
        slow_lookup_threshold: milliseconds(get, "SESSION_CACHE_SLOW_MS", FROM_1_MS)?
            .unwrap_or(DEFAULT_SLOW_LOOKUP_THRESHOLD),
        change_wait: milliseconds(get, "SESSION_CHANGE_WAIT_MS", FROM_0_MS)?
            .unwrap_or(DEFAULT_CHANGE_WAIT),
        journal_interval: milliseconds(get, "SESSION_JOURNAL_INTERVAL_MS", FROM_10_MS)?
            .unwrap_or(DEFAULT_JOURNAL_INTERVAL),
        max_concurrent_reads: set_number(
            get,
            "SESSION_DB_CONCURRENT_READS",
            "1 to 1000",
            1..=1_000,
        )?,
    })
}

/// Reads the variables of Postgres beside its URL.
#[cfg(feature = "postgres")]
pub(super) fn database_settings(
    get: impl Fn(&str) -> Option<String>,
) -> Result<DatabaseSettings, ConfigError> {
    database_settings_of(&|name| get(name).filter(|value| !value.trim().is_empty()))
}

fn database_settings_of(get: Get<'_>) -> Result<DatabaseSettings, ConfigError> {
    let connections = number(get, "SESSION_DB_POOL_SIZE", "10", "1 to 1000", 1..=1000)?;
    let migrate = boolean(get, "SESSION_DB_MIGRATE", "true")?;
    let pooled = boolean(get, "SESSION_DB_POOLED", "false")?;
    let schema = one_of(get, "SESSION_DB_SCHEMA", DEFAULT_SCHEMA, SCHEMA_NAME, |text| {
        is_schema_name(text).then(|| text.to_owned())
    })?;
    Ok(DatabaseSettings {
        pool_size: u32::try_from(connections).unwrap_or(u32::MAX),
        schema,
        migrate,
        pooled,
        password_file: get("DATABASE_PASSWORD_FILE"),
        tls: tls(get, &OF_POSTGRES)?,
        start_timeout: Duration::from_secs(number(
            get,
            "SESSION_DB_START_TIMEOUT",
            "30",
            "whole seconds from 0 to 3600",
            0..=3_600,
        )? as u64),
        read_deadline: milliseconds(get, "SESSION_DB_READ_DEADLINE_MS", STATEMENT_MS)?,
        change_deadline: milliseconds(get, "SESSION_DB_CHANGE_DEADLINE_MS", STATEMENT_MS)?,
    })
}

/// Reads the variables of Redis beside its URL.
#[cfg(feature = "redis")]
pub(super) fn redis_settings(
    get: impl Fn(&str) -> Option<String>,
) -> Result<RedisSettings, ConfigError> {
    redis_settings_of(&|name| get(name).filter(|value| !value.trim().is_empty()))
}

fn redis_settings_of(get: Get<'_>) -> Result<RedisSettings, ConfigError> {
    let namespace = one_of(get, "SESSION_CACHE_NAMESPACE", "session-layer", NAMESPACE, |text| {
        is_namespace(text).then(|| text.to_owned())
    })?;
    Ok(RedisSettings {
        namespace,
        pool_size: number(get, "SESSION_CACHE_POOL_SIZE", "10", "1 to 1000", 1..=1000)?,
        deadline: milliseconds(get, "SESSION_CACHE_DEADLINE_MS", FROM_1_MS)?,
        replicated: boolean(get, "SESSION_CACHE_REPLICATED", "false")?,
        keys: keys(get)?,
        tls: tls(get, &OF_REDIS)?,
        password_file: get("REDIS_PASSWORD_FILE"),
        sentinel_user: get("REDIS_SENTINEL_USERNAME"),
        sentinel_password: sentinel_password(get)?,
    })
}

/// The variables of TLS to one server.
struct TlsVariables {
    insecure: &'static str,
    ca: &'static str,
    server_name: Option<&'static str>,
    certificate: &'static str,
    key: &'static str,
    /// The error if only one of certificate and key is set.
    half: &'static str,
}

const OF_REDIS: TlsVariables = TlsVariables {
    insecure: "REDIS_TLS_INSECURE",
    ca: "REDIS_TLS_CA_FILE",
    server_name: Some("REDIS_TLS_SERVER_NAME"),
    certificate: "REDIS_TLS_CERT_FILE",
    key: "REDIS_TLS_KEY_FILE",
    half: "one of REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE is set without the other: set both, \
           or unset it",
};

/// There is no server name, because sqlx verifies the host of the URL.
const OF_POSTGRES: TlsVariables = TlsVariables {
    insecure: "DATABASE_TLS_INSECURE",
    ca: "DATABASE_TLS_CA_FILE",
    server_name: None,
    certificate: "DATABASE_TLS_CERT_FILE",
    key: "DATABASE_TLS_KEY_FILE",
    half: "one of DATABASE_TLS_CERT_FILE and DATABASE_TLS_KEY_FILE is set without the other: set \
           both, or unset it",
};

fn tls(get: Get<'_>, names: &TlsVariables) -> Result<TlsSettings, ConfigError> {
    let mut tls = TlsSettings::new().insecure(boolean(get, names.insecure, "false")?);
    if let Some(path) = get(names.ca) {
        tls = tls.ca_file(path.trim());
    }
    if let Some(name) = names.server_name.and_then(get) {
        tls = tls.server_name(name.trim());
    }
    match (get(names.certificate), get(names.key)) {
        (None, None) => Ok(tls),
        (Some(certificate), Some(key)) => Ok(tls.client_files(certificate.trim(), key.trim())),
        _ => Err(ConfigError::Combination(names.half)),
    }
}

fn sentinel_password(get: Get<'_>) -> Result<Option<SentinelPassword>, ConfigError> {
    let given = get("REDIS_SENTINEL_PASSWORD").map(Zeroizing::new);
    match (given, get("REDIS_SENTINEL_PASSWORD_FILE")) {
        (Some(_), Some(_)) => Err(ConfigError::Combination(
            "REDIS_SENTINEL_PASSWORD and REDIS_SENTINEL_PASSWORD_FILE are both set: unset one of \
             them",
        )),
        (None, None) if get("REDIS_SENTINEL_USERNAME").is_some() => Err(ConfigError::Combination(
            "REDIS_SENTINEL_USERNAME is set without a password: set REDIS_SENTINEL_PASSWORD or \
             REDIS_SENTINEL_PASSWORD_FILE too",
        )),
        (given, file) => {
            Ok(given.map(SentinelPassword::This).or(file.map(SentinelPassword::InFile)))
        }
    }
}

fn keys(get: Get<'_>) -> Result<Option<Keys>, ConfigError> {
    let given = get("SESSION_CACHE_KEY").map(Zeroizing::new);
    match (given, get("SESSION_CACHE_KEY_FILE")) {
        (None, None) => Ok(None),
        (None, Some(path)) => Ok(Some(Keys::InFile(path))),
        (Some(text), None) => text.parse().map(|keys| Some(Keys::These(keys))).map_err(
            |error: crate::cache::seal::SealingKeysError| {
                ConfigError::bad_keys("SESSION_CACHE_KEY", SEALING_KEYS, error)
            },
        ),
        (Some(_), Some(_)) => Err(ConfigError::Combination(
            "SESSION_CACHE_KEY and SESSION_CACHE_KEY_FILE are both set: unset one of them",
        )),
    }
}

/// Returns the path of a `sqlite:` URL, or `None` for a URL of another kind.
fn sqlite_path(url: &str) -> Result<Option<&str>, ConfigError> {
    let (scheme, path) = url.trim().split_once(':').unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("sqlite") {
        return Ok(None);
    }
    let path = path.strip_prefix("//").unwrap_or(path);
    // An empty path is a temporary file to SQLite, and parameters would become part of the name.
    if path.is_empty() || path.contains('?') {
        return Err(bad_database_url(ServerUrlError::because(
            "the path of a SQLite file is not empty and has no parameters",
        )));
    }
    Ok(Some(path))
}

fn server_url(url: &str, kind: ServerKind) -> Result<ServerUrl, ServerUrlError> {
    let url: ServerUrl = url.parse()?;
    if url.kind() != kind {
        return Err(ServerUrlError::because("its scheme is that of another server"));
    }
    Ok(url)
}

fn bad_database_url(reason: ServerUrlError) -> ConfigError {
    ConfigError::BadUrl { name: "DATABASE_URL", may_be: DATABASE_URLS, source: reason.into() }
}

type Get<'a> = &'a dyn Fn(&'static str) -> Option<String>;

fn one_of<T>(
    get: Get<'_>,
    name: &'static str,
    default: &str,
    may_be: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    let text = get(name).unwrap_or_else(|| default.to_owned());
    parse(text.trim()).ok_or_else(|| ConfigError::bad(name, text, may_be))
}

fn boolean(get: Get<'_>, name: &'static str, default: &str) -> Result<bool, ConfigError> {
    one_of(get, name, default, BOOLEAN, |text| match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    })
}

fn number(
    get: Get<'_>,
    name: &'static str,
    default: &str,
    may_be: &'static str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, ConfigError> {
    one_of(get, name, default, may_be, |text| text.parse().ok().filter(|n| range.contains(n)))
}

/// Reads a number without a default.
fn set_number<T: std::str::FromStr + PartialOrd>(
    get: Get<'_>,
    name: &'static str,
    may_be: &'static str,
    range: std::ops::RangeInclusive<T>,
) -> Result<Option<T>, ConfigError> {
    let Some(text) = get(name) else { return Ok(None) };
    match text.trim().parse().ok().filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(ConfigError::bad(name, text, may_be)),
    }
}

fn milliseconds(
    get: Get<'_>,
    name: &'static str,
    (range, may_be): Milliseconds,
) -> Result<Option<Duration>, ConfigError> {
    Ok(set_number(get, name, may_be, range)?.map(Duration::from_millis))
}

/// Reads how long ended sessions are kept.
fn retention(get: Get<'_>) -> Result<Option<Duration>, ConfigError> {
    const NAME: &str = "SESSION_RETENTION_DAYS";
    const MAY_BE: &str = "whole days from 0 to 18250, or never";
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    if get(NAME).is_some_and(|text| text.trim() == "never") {
        return Ok(None);
    }
    let days = set_number(get, NAME, MAY_BE, 0..=MOST_RETENTION_DAYS)?;
    Ok(Some(days.map_or(DEFAULT_RETENTION, |days| Duration::from_secs(days * DAY.as_secs()))))
}

#[cfg(test)]
mod tests;
