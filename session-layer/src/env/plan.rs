//! What the variables come to: a pure function of them.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::cache::{NAMESPACE, is_namespace};
use crate::error::ConfigError;
use crate::journal::Policy;
use crate::seal::{SEALING_KEYS, SealingKeys};
use crate::sessions::Mode;
use crate::store::is_schema_name;

/// Where the sessions are without `DATABASE_URL`.
const DEFAULT_DATABASE: &str = "sqlite:session-layer.db";
const BOOLEAN: &str = "true, false, 1 or 0";

/// What the variables come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) stores: Stores,
    pub(super) ttl: Duration,
    pub(super) mode: Mode,
    pub(super) policy: Policy,
}

/// Which stores and cache. There are three ways, so that nobody gets an in-process cache in
/// production by accident.
#[derive(PartialEq, Eq)]
pub(super) enum Stores {
    /// One process: SQLite and memory.
    Embedded { path: String },
    /// Postgres and Redis.
    Shared { database: Database, redis: Redis },
    /// Postgres alone, the cache off.
    StoreOnly { database: Database },
}

#[derive(PartialEq, Eq)]
pub(super) struct Database {
    pub(super) url: String,
    pub(super) schema: String,
    pub(super) migrate: bool,
    pub(super) pooled: bool,
}

#[derive(PartialEq, Eq)]
pub(super) struct Redis {
    pub(super) url: String,
    pub(super) namespace: String,
    pub(super) pool_size: usize,
    pub(super) replicated: bool,
    pub(super) keys: Option<Keys>,
}

/// The keys to seal entries with.
#[derive(PartialEq, Eq)]
pub(super) enum Keys {
    These(SealingKeys),
    InFile(String),
}

impl std::fmt::Debug for Stores {
    /// Without addresses, which may hold passwords.
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
    let policy = one_of(
        &get,
        "SESSION_CACHE_POLICY",
        "available",
        "available or fail-closed",
        |text| match text {
            "available" => Some(Policy::Available),
            "fail-closed" => Some(Policy::FailClosed),
            _ => None,
        },
    )?;
    let enabled = boolean(&get, "SESSION_CACHE_ENABLED", "true")?;
    let seconds = number(
        &get,
        "SESSION_CACHE_TTL",
        "300",
        "whole seconds from 1 to 86400",
        1..=86_400,
    )?;
    let pool_size = number(&get, "SESSION_CACHE_POOL_SIZE", "10", "1 to 1000", 1..=1000)?;
    let replicated = boolean(&get, "SESSION_CACHE_REPLICATED", "false")?;
    let migrate = boolean(&get, "SESSION_DB_MIGRATE", "true")?;
    let pooled = boolean(&get, "SESSION_DB_POOLED", "false")?;
    let namespace = one_of(
        &get,
        "SESSION_CACHE_NAMESPACE",
        "session-layer",
        NAMESPACE,
        |text| is_namespace(text).then(|| text.to_owned()),
    )?;
    let schema = one_of(
        &get,
        "SESSION_DB_SCHEMA",
        "session_layer",
        "1 to 63 of a-z, 0-9 and _, not beginning with a digit or pg_",
        |text| is_schema_name(text).then(|| text.to_owned()),
    )?;
    // Read also where they are not used, for a bad one to be found before it is needed.
    let keys = keys(&get)?;
    let url = get("DATABASE_URL").unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
    let url = with_lower_case_scheme(url.trim());
    let redis_url = get("REDIS_URL").map(|url| with_lower_case_scheme(url.trim()));

    let stores = if let Some(path) = url.strip_prefix("sqlite:") {
        if redis_url.is_some() {
            return Err(ConfigError::Combination(
                "REDIS_URL goes with a DATABASE_URL of postgres:// only: set that too, or unset \
                 REDIS_URL to use the in-process cache",
            ));
        }
        let path = path.strip_prefix("//").unwrap_or(path);
        // An empty path is a temporary file to SQLite, and parameters would become part of the name.
        if path.is_empty() || path.contains('?') {
            return Err(ConfigError::bad(
                "DATABASE_URL",
                url.as_str(),
                "sqlite:PATH, without parameters",
            ));
        }
        Stores::Embedded {
            path: path.to_owned(),
        }
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let database = Database {
            url,
            schema,
            migrate,
            pooled,
        };
        match redis_url {
            Some(url) => Stores::Shared {
                database,
                redis: Redis {
                    url,
                    namespace,
                    pool_size,
                    replicated,
                    keys,
                },
            },
            None if !enabled => Stores::StoreOnly { database },
            None => {
                return Err(ConfigError::Combination(
                    "DATABASE_URL is postgres:// but REDIS_URL is not set: set REDIS_URL, or \
                     SESSION_CACHE_ENABLED=false to go without a cache",
                ));
            }
        }
    } else {
        return Err(ConfigError::BadUrl {
            name: "DATABASE_URL",
            may_be: "postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH",
            source: "unknown scheme".into(),
        });
    };
    let mode = if enabled { Mode::On } else { Mode::Bypass };
    Ok(Plan {
        stores,
        ttl: Duration::from_secs(seconds as u64),
        mode,
        policy,
    })
}

fn keys(get: Get<'_>) -> Result<Option<Keys>, ConfigError> {
    let given = get("SESSION_CACHE_KEY").map(Zeroizing::new);
    match (given, get("SESSION_CACHE_KEY_FILE")) {
        (None, None) => Ok(None),
        (None, Some(path)) => Ok(Some(Keys::InFile(path))),
        (Some(text), None) => text.parse().map(|keys| Some(Keys::These(keys))).map_err(
            |error: crate::seal::InvalidSealingKeys| {
                ConfigError::bad_keys("SESSION_CACHE_KEY", SEALING_KEYS, error)
            },
        ),
        (Some(_), Some(_)) => Err(ConfigError::Combination(
            "SESSION_CACHE_KEY and SESSION_CACHE_KEY_FILE are both set: unset one of them",
        )),
    }
}

/// `POSTGRES://…` is as good as `postgres://…`.
fn with_lower_case_scheme(url: &str) -> String {
    match url.split_once(':') {
        Some((scheme, rest)) => format!("{}:{rest}", scheme.to_ascii_lowercase()),
        None => url.to_owned(),
    }
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
    one_of(get, name, default, may_be, |text| {
        text.parse().ok().filter(|n| range.contains(n))
    })
}

#[cfg(test)]
mod tests;
