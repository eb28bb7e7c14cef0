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
mod tests {
    use super::*;

    fn plan_of(variables: &[(&str, &str)]) -> Result<Plan, String> {
        plan(|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.to_string())
    }

    const POSTGRES: (&str, &str) = ("DATABASE_URL", "postgres://u:hunter2@db/app");
    const REDIS: (&str, &str) = ("REDIS_URL", "redis://:hunter2@cache");

    const KEY: &str = "1:aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ=";

    #[test]
    fn nothing_set_is_the_embedded_pair() {
        let plan = plan_of(&[]).unwrap();
        assert_eq!(
            plan.stores,
            Stores::Embedded {
                path: "session-layer.db".to_owned()
            }
        );
        assert_eq!((plan.ttl, plan.mode), (Duration::from_secs(300), Mode::On));
        assert_eq!(
            plan_of(&[("DATABASE_URL", ""), ("REDIS_URL", " ")]).unwrap(),
            plan
        );
    }

    #[test]
    fn both_addresses_are_the_shared_pair() {
        let plan = plan_of(&[
            POSTGRES,
            REDIS,
            ("SESSION_CACHE_NAMESPACE", "shop"),
            ("SESSION_CACHE_TTL", "7"),
            ("SESSION_CACHE_POOL_SIZE", "3"),
            ("SESSION_CACHE_REPLICATED", "1"),
            ("SESSION_CACHE_ENABLED", "0"),
            ("SESSION_CACHE_POLICY", "fail-closed"),
            ("SESSION_DB_MIGRATE", "false"),
            ("SESSION_DB_SCHEMA", "auth"),
            ("SESSION_CACHE_KEY", KEY),
        ])
        .unwrap();
        let expected = Stores::Shared {
            database: Database {
                url: POSTGRES.1.to_owned(),
                schema: "auth".to_owned(),
                migrate: false,
            },
            redis: Redis {
                url: REDIS.1.to_owned(),
                namespace: "shop".to_owned(),
                pool_size: 3,
                replicated: true,
                keys: Some(Keys::These(KEY.parse().unwrap())),
            },
        };
        assert_eq!(
            plan,
            Plan {
                stores: expected,
                ttl: Duration::from_secs(7),
                mode: Mode::Bypass,
                policy: Policy::FailClosed,
            }
        );
    }

    #[test]
    fn postgres_without_redis_needs_the_cache_off() {
        assert!(
            plan_of(&[POSTGRES])
                .unwrap_err()
                .contains("SESSION_CACHE_ENABLED=false")
        );
        let alone = plan_of(&[POSTGRES, ("SESSION_CACHE_ENABLED", "false")]).unwrap();
        assert!(matches!(alone.stores, Stores::StoreOnly { .. }));
    }

    #[test]
    fn redis_without_postgres_is_an_error_that_names_the_way_out() {
        assert!(plan_of(&[REDIS]).unwrap_err().contains("postgres://"));
    }

    #[test]
    fn bad_values_name_variable_value_and_choice() {
        for (name, was, may_be) in [
            ("SESSION_CACHE_ENABLED", "yes", "true, false, 1 or 0"),
            ("SESSION_CACHE_TTL", "5m", "whole seconds"),
            ("SESSION_CACHE_TTL", "0", "1 to 86400"),
            ("SESSION_CACHE_POOL_SIZE", "0", "1 to 1000"),
            ("SESSION_CACHE_REPLICATED", "TRUE", "true, false, 1 or 0"),
            ("SESSION_DB_MIGRATE", "no", "true, false, 1 or 0"),
            ("SESSION_CACHE_POLICY", "open", "available or fail-closed"),
            ("SESSION_CACHE_NAMESPACE", "a{b}c", "without braces"),
            ("SESSION_DB_SCHEMA", "Auth", "a-z"),
            ("DATABASE_URL", "sqlite:", "sqlite:PATH"),
            ("DATABASE_URL", "sqlite:y.db?mode=rwc", "without parameters"),
        ] {
            let others = if name == "DATABASE_URL" {
                vec![]
            } else {
                vec![POSTGRES, REDIS]
            };
            let error = plan_of(&[others, vec![(name, was)]].concat()).unwrap_err();
            assert!(
                error.contains(name) && error.contains(was) && error.contains(may_be),
                "{error}"
            );
        }
    }

    #[test]
    fn a_scheme_in_capitals_is_one_too() {
        let capitals = ("DATABASE_URL", "POSTGRES://u:hunter2@db/app");
        assert_eq!(plan_of(&[capitals, REDIS]), plan_of(&[POSTGRES, REDIS]));
    }

    #[test]
    fn keys_are_in_one_place() {
        let (key, file) = (
            ("SESSION_CACHE_KEY", KEY),
            ("SESSION_CACHE_KEY_FILE", "/run/secrets/key"),
        );
        let of = |variables: &[_]| match plan_of(&[&[POSTGRES, REDIS], variables].concat()) {
            Ok(Plan {
                stores: Stores::Shared { redis, .. },
                ..
            }) => Ok(redis.keys),
            Ok(plan) => panic!("{plan:?}"),
            Err(error) => Err(error),
        };
        assert!(of(&[]) == Ok(None));
        assert!(of(&[file]) == Ok(Some(Keys::InFile(file.1.to_owned()))));
        assert!(of(&[("SESSION_CACHE_KEY", ""), file]).is_ok_and(|keys| keys.is_some()));
        let both = of(&[key, file]).err().unwrap();
        assert!(both.contains("SESSION_CACHE_KEY_FILE") && !both.contains("hunter2"));
        // Whoever sets a key counts on it, whichever the stores are.
        let embedded = plan_of(&[("SESSION_CACHE_KEY", "1:short")]).unwrap_err();
        assert!(embedded.contains("key number 1"), "{embedded}");
    }

    #[test]
    fn what_was_wrong_is_not_repeated_at_length() {
        let long = "{".repeat(5_000);
        let error = plan_of(&[POSTGRES, REDIS, ("SESSION_CACHE_NAMESPACE", &long)]).unwrap_err();
        assert!(error.len() < 300, "{}", error.len());
    }

    #[test]
    fn secrets_are_never_shown() {
        let key = plan_of(&[("SESSION_CACHE_KEY", "1:hunter2")]).unwrap_err();
        assert!(key.starts_with("SESSION_CACHE_KEY") && key.contains("ID:KEY"));
        let url = plan_of(&[("DATABASE_URL", "mysql://u:hunter2@db")]).unwrap_err();
        let plan = format!("{:?}", plan_of(&[POSTGRES, REDIS]).unwrap());
        for shown in [key, url, plan] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
