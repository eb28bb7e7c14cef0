//! Tests of the plan that the variables describe.

use super::*;

fn plan_of(variables: &[(&str, &str)]) -> Result<Plan, String> {
    plan(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
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
        Stores::Embedded { path: "session-layer.db".to_owned(), is_default: true }
    );
    assert_eq!((plan.handle.ttl, plan.handle.mode), (Duration::from_secs(300), CacheMode::On));
    assert_eq!(plan_of(&[("DATABASE_URL", ""), ("REDIS_URL", " ")]).unwrap(), plan);
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
        ("SESSION_NEAR_CACHE_MB", "64"),
        ("SESSION_PAUSE_AFTER", "600"),
        ("SESSION_TRACE_IDS", "true"),
        ("SESSION_CACHE_ENABLED", "0"),
        ("SESSION_CACHE_POLICY", "fail-closed"),
        ("SESSION_DB_MIGRATE", "false"),
        ("SESSION_DB_POOLED", "1"),
        ("SESSION_DB_POOL_SIZE", "4"),
        ("SESSION_DB_SCHEMA", "auth"),
        ("SESSION_CACHE_KEY", KEY),
        ("SESSION_CACHE_DEADLINE_MS", "80"),
        ("SESSION_CACHE_SLOW_MS", "30"),
        ("SESSION_VALIDATION_TIMEOUT_MS", "500"),
        ("SESSION_CHANGE_WAIT_MS", "0"),
        ("SESSION_JOURNAL_INTERVAL_MS", "250"),
        ("SESSION_RETENTION_DAYS", "30"),
        ("SESSION_DB_CONCURRENT_READS", "2"),
        ("SESSION_DB_READ_DEADLINE_MS", "400"),
        ("SESSION_DB_CHANGE_DEADLINE_MS", "3000"),
        ("REDIS_PASSWORD_FILE", "/run/secrets/redis"),
        ("REDIS_SENTINEL_USERNAME", "node"),
        ("REDIS_SENTINEL_PASSWORD_FILE", "/run/secrets/s"),
        ("REDIS_TLS_CA_FILE", "/ca"),
        ("REDIS_TLS_CERT_FILE", "/cert"),
        ("REDIS_TLS_KEY_FILE", "/key\n"),
        ("REDIS_TLS_SERVER_NAME", "cache"),
        ("REDIS_TLS_INSECURE", "1"),
    ])
    .unwrap();
    let expected = Stores::Shared {
        database: Database {
            url: POSTGRES.1.parse().unwrap(),
            settings: DatabaseSettings {
                pool_size: 4,
                schema: "auth".to_owned(),
                migrate: false,
                pooled: true,
                password_file: None,
                tls: TlsSettings::new(),
                start_timeout: Duration::from_secs(30),
                read_deadline: Some(Duration::from_millis(400)),
                change_deadline: Some(Duration::from_secs(3)),
            },
        },
        redis: Box::new(Redis {
            url: REDIS.1.parse().unwrap(),
            settings: RedisSettings {
                namespace: "shop".to_owned(),
                pool_size: 3,
                deadline: Some(Duration::from_millis(80)),
                replicated: true,
                keys: Some(Keys::These(KEY.parse().unwrap())),
                tls: TlsSettings::new()
                    .ca_file("/ca")
                    .client_files("/cert", "/key")
                    .server_name("cache")
                    .insecure(true),
                password_file: Some("/run/secrets/redis".to_owned()),
                sentinel_user: Some("node".to_owned()),
                sentinel_password: Some(SentinelPassword::InFile("/run/secrets/s".to_owned())),
            },
        }),
    };
    assert_eq!(
        plan,
        Plan {
            stores: expected,
            handle: EnvSettings {
                ttl: Duration::from_secs(7),
                mode: CacheMode::Bypass,
                policy: PartitionPolicy::FailClosed,
                trace_ids: true,
                retention: Some(Duration::from_secs(30 * 86_400)),
                validation_timeout: Duration::from_millis(500),
                slow_lookup_threshold: Duration::from_millis(30),
                change_wait: Duration::ZERO,
                journal_interval: Duration::from_millis(250),
                max_concurrent_reads: Some(2),
                near_cache: 64 << 20,
                pause_after: Duration::from_secs(600),
            },
        }
    );
}

#[test]
fn ended_sessions_are_kept_for_days_or_forever() {
    let of = |days: &str| plan_of(&[("SESSION_RETENTION_DAYS", days)]).unwrap().handle.retention;
    assert_eq!(of(""), Some(DEFAULT_RETENTION));
    assert_eq!(of("0"), Some(Duration::ZERO));
    assert_eq!(of("never"), None);
    assert_eq!(of("18250"), Some(crate::model::session::MAX_LIFETIME));
}

#[test]
fn postgres_without_redis_needs_the_cache_off() {
    assert!(plan_of(&[POSTGRES]).unwrap_err().contains("SESSION_CACHE_ENABLED=false"));
    let alone = plan_of(&[POSTGRES, ("SESSION_CACHE_ENABLED", "false")]).unwrap();
    assert!(matches!(alone.stores, Stores::StoreOnly { database }
            if database.settings.migrate && !database.settings.pooled));
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
        ("SESSION_DB_POOLED", "on", "true, false, 1 or 0"),
        ("SESSION_CACHE_POLICY", "open", "available or fail-closed"),
        ("SESSION_NEAR_CACHE_MB", "64M", "0 to 1048576"),
        ("SESSION_PAUSE_AFTER", "5m", "whole seconds up to 86400"),
        ("SESSION_TRACE_IDS", "yes", "true, false, 1 or 0"),
        ("SESSION_CACHE_NAMESPACE", "a{b}c", "without braces"),
        ("SESSION_DB_SCHEMA", "Auth", "a-z"),
        ("SESSION_DB_POOL_SIZE", "1001", "1 to 1000"),
        ("REDIS_TLS_INSECURE", "yes", "true, false, 1 or 0"),
        ("DATABASE_TLS_INSECURE", "yes", "true, false, 1 or 0"),
        ("SESSION_DB_START_TIMEOUT", "1h", "0 to 3600"),
        ("SESSION_CACHE_DEADLINE_MS", "50ms", "whole milliseconds from 1"),
        ("SESSION_CACHE_SLOW_MS", "0", "whole milliseconds from 1"),
        ("SESSION_VALIDATION_TIMEOUT_MS", "86400001", "to 86400000"),
        ("SESSION_CHANGE_WAIT_MS", "-1", "whole milliseconds from 0"),
        ("SESSION_JOURNAL_INTERVAL_MS", "9", "whole milliseconds from 10"),
        ("SESSION_RETENTION_DAYS", "18251", "0 to 18250, or never"),
        ("SESSION_DB_CONCURRENT_READS", "0", "1 to 1000"),
        ("SESSION_DB_READ_DEADLINE_MS", "9", "10 to 60000"),
        ("SESSION_DB_CHANGE_DEADLINE_MS", "60001", "10 to 60000"),
    ] {
        let error = plan_of(&[POSTGRES, REDIS, (name, was)]).unwrap_err();
        assert!(error.contains(name) && error.contains(was) && error.contains(may_be), "{error}");
    }
}

#[test]
fn bad_url_names_the_variable_and_repeats_nothing() {
    let (database, redis) = ("DATABASE_URL", "REDIS_URL");
    for (name, url, reason) in [
        (database, "sqlite:", "not empty"),
        (database, "sqlite:hunter2.db?mode=rwc", "no parameters"),
        (database, "mysql://u:hunter2@db", "scheme"),
        (database, "hunter2", "SCHEME://HOST"),
        (database, "postgres://u:1/hunter2@db/app", "%2F"),
        (database, "redis://hunter2", "another server"),
        (redis, ":hunter2@cache", "SCHEME://HOST"),
        (redis, "redis://:hunter2/x@cache", "%2F"),
        (redis, "postgres://hunter2", "another server"),
    ] {
        let other = if name == redis { POSTGRES } else { ("SESSION_CACHE_ENABLED", "false") };
        let error = plan_of(&[other, (name, url)]).unwrap_err();
        assert!(error.starts_with(name) && error.contains(reason), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn setting_for_servers_without_urls_is_refused() {
    for name in NEEDS_SERVERS {
        let value = match name {
            "SESSION_CACHE_KEY" => KEY,
            "SESSION_CACHE_POLICY" => "available",
            name if ["SIZE", "MB", "TIMEOUT", "AFTER", "_MS", "READS"]
                .iter()
                .any(|end| name.ends_with(end)) =>
            {
                "10"
            }
            name if name.ends_with("NAMESPACE") || name.ends_with("SCHEMA") => "shop",
            name if name.ends_with("FILE") => "/run/secrets/key",
            _ => "true",
        };
        for unset in [vec![], vec![("DATABASE_URL", ""), ("REDIS_URL", " ")]] {
            let error = plan_of(&[unset, vec![(name, value)]].concat()).unwrap_err();
            if name == "REDIS_SENTINEL_USERNAME"
                || name.contains("_TLS_CERT")
                || name.contains("_TLS_KEY")
            {
                assert!(error.contains("is set without"), "{error}");
                continue;
            }
            assert!(error.starts_with(name) && error.contains("DATABASE_URL=sqlite:"), "{error}");
        }
        let chosen = ("DATABASE_URL", "SQLite:session-layer.db");
        let mut set = vec![chosen, (name, value)];
        // Each of these needs the other.
        match name {
            "REDIS_TLS_CERT_FILE" => set.push(("REDIS_TLS_KEY_FILE", "/key")),
            "REDIS_TLS_KEY_FILE" => set.push(("REDIS_TLS_CERT_FILE", "/cert")),
            "DATABASE_TLS_CERT_FILE" => set.push(("DATABASE_TLS_KEY_FILE", "/key")),
            "DATABASE_TLS_KEY_FILE" => set.push(("DATABASE_TLS_CERT_FILE", "/cert")),
            "REDIS_SENTINEL_USERNAME" => set.push(("REDIS_SENTINEL_PASSWORD", "hunter2")),
            _ => {}
        }
        let plan = plan_of(&set).unwrap();
        let expected = Stores::Embedded { path: "session-layer.db".to_owned(), is_default: false };
        assert_eq!(plan.stores, expected, "{name}");
        assert!(plan_of(&[(name, "")]).is_ok(), "{name}: an empty one is not set");
    }
    for (name, value) in [
        ("SESSION_CACHE_TTL", "7"),
        ("SESSION_CACHE_ENABLED", "false"),
        ("SESSION_TRACE_IDS", "true"),
        ("SESSION_VALIDATION_TIMEOUT_MS", "500"),
        ("SESSION_CHANGE_WAIT_MS", "100"),
        ("SESSION_RETENTION_DAYS", "1"),
    ] {
        assert!(plan_of(&[(name, value)]).is_ok(), "{name}");
    }
}

#[test]
fn a_scheme_in_capitals_is_one_too() {
    let capitals = ("DATABASE_URL", "POSTGRES://u:hunter2@db/app");
    assert_eq!(plan_of(&[capitals, REDIS]), plan_of(&[POSTGRES, REDIS]));
}

#[test]
fn keys_are_in_one_place() {
    let (key, file) = (("SESSION_CACHE_KEY", KEY), ("SESSION_CACHE_KEY_FILE", "/run/secrets/key"));
    let of = |variables: &[_]| match plan_of(&[&[POSTGRES, REDIS], variables].concat()) {
        Ok(Plan { stores: Stores::Shared { redis, .. }, .. }) => Ok(redis.settings.keys),
        Ok(plan) => panic!("{plan:?}"),
        Err(error) => Err(error),
    };
    assert!(of(&[]) == Ok(None));
    assert!(of(&[file]) == Ok(Some(Keys::InFile(file.1.to_owned()))));
    assert!(of(&[("SESSION_CACHE_KEY", ""), file]).is_ok_and(|keys| keys.is_some()));
    let both = of(&[key, file]).err().unwrap();
    assert!(both.contains("SESSION_CACHE_KEY_FILE") && !both.contains("hunter2"));
    // An operator who sets a key relies on it, whichever the stores are.
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
