//! [`Sessions::from_env`]: sessions from the settings in the environment.
//!
//! [`plan()`] is a pure function that reads the variables. [`open`] opens the stores of the plan.

mod plan;

#[cfg(feature = "postgres")]
use std::time::Duration;

#[cfg(feature = "postgres")]
use tokio::time::Instant;

pub use self::plan::EnvSettings;
#[cfg(feature = "postgres")]
use self::plan::{Database, DatabaseSettings, database_settings};
#[cfg(feature = "redis")]
use self::plan::{Keys, RedisSettings, SentinelPassword, redis_settings};
use self::plan::{Plan, Stores, env_settings, plan};
use crate::cache::SessionCache;
#[cfg(feature = "redis")]
use crate::model::credentials::Credential;
#[cfg(any(feature = "redis", feature = "postgres"))]
use crate::model::credentials::PasswordFile;
use crate::model::error::ConfigError;
#[cfg(feature = "postgres")]
use crate::model::error::StoreError;
#[cfg(any(feature = "redis", feature = "postgres"))]
use crate::model::server_url::ServerUrl;
use crate::sessions::Sessions;
use crate::sessions::builder::SessionsBuilder;
use crate::store::SessionStore;

impl Sessions {
    /// Builds sessions from the settings in the environment.
    ///
    #[doc = include_str!("env.md")]
    ///
    /// `postgres://` needs `REDIS_URL`, unless the cache is off. `sqlite:` works with the
    /// in-process cache only. An empty variable counts as not set.
    ///
    /// If neither URL is set, sessions are kept in a SQLite file of this process, and a warning is
    /// logged. It is an error if a variable is set that has an effect only with Postgres or Redis.
    /// These are all variables but `SESSION_CACHE_ENABLED`, `SESSION_CACHE_TTL`,
    /// `SESSION_VALIDATION_TIMEOUT_MS`, `SESSION_CHANGE_WAIT_MS`, `SESSION_RETENTION_DAYS` and
    /// `SESSION_TRACE_IDS`.
    ///
    /// # Errors
    /// [`ConfigError`] names the variable, its value and what is allowed. If the tables could not
    /// be migrated, it has the reason. Redis need not be reachable yet.
    pub async fn from_env() -> Result<Self, ConfigError> {
        open(plan(variable)?).await
    }
}

impl Sessions {
    /// Checks the variables that [`from_env`](Self::from_env) reads, without opening a server or a
    /// file.
    ///
    /// # Errors
    /// The [`ConfigError`] with which the application would not start.
    pub fn check_env() -> Result<(), ConfigError> {
        plan(variable).map(|_plan| ())
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Returns whether a variable names another server or user than `url`. Its parameters may differ.
#[cfg(any(feature = "redis", feature = "postgres"))]
fn names_another(value: Option<String>, url: Option<&ServerUrl>) -> bool {
    let (Some(value), Some(url)) = (value.filter(|value| !value.trim().is_empty()), url) else {
        return false;
    };
    let place = |url: &ServerUrl| {
        let exposed = url.expose();
        // The parameter comes first for Postgres.
        let named = exposed.query_pairs().filter(|(name, _)| name == "user").last();
        let user = named.map_or_else(|| exposed.username().to_owned(), |(_, user)| user.into());
        (url.kind(), url.address(), url.others().to_vec(), user)
    };
    // A value that is no address of ours, such as one of another database, is for another server.
    value.parse::<ServerUrl>().map_or(true, |named| place(&named) != place(url))
}

#[cfg(feature = "redis")]
impl crate::cache::RedisCacheBuilder {
    /// Applies the variables of the environment as [`Sessions::from_env`] does, except `REDIS_URL`:
    /// those that begin with `REDIS_`, and the namespace, the number of connections, the deadline,
    /// the replicas and the keys. A password in a file is for the server of `REDIS_URL`. It is not
    /// applied if that names another one.
    ///
    /// # Errors
    /// [`ConfigError`] names the variable, its value and what is allowed.
    pub fn from_env(self) -> Result<Self, ConfigError> {
        let mut settings = redis_settings(variable)?;
        if names_another(variable("REDIS_URL"), self.url()) {
            (settings.password_file, settings.sentinel_password) = (None, None);
        }
        with_settings(self, settings)
    }
}

#[cfg(feature = "redis")]
fn with_settings(
    cache: crate::cache::RedisCacheBuilder,
    settings: RedisSettings,
) -> Result<crate::cache::RedisCacheBuilder, ConfigError> {
    let cache = cache
        .namespace(settings.namespace)
        .pool_size(settings.pool_size)
        .replicated(settings.replicated)
        .tls(settings.tls);
    let cache = if_set(cache, settings.deadline, crate::cache::RedisCacheBuilder::deadline);
    let cache = match settings.password_file {
        Some(path) => cache.credentials(PasswordFile::new(path.trim())),
        None => cache,
    };
    let user = settings.sentinel_user;
    let cache = match settings.sentinel_password {
        Some(SentinelPassword::This(password)) => cache.sentinel_credentials(move || {
            let credential = Credential::new(password.as_str());
            let credential = match &user {
                Some(user) => credential.user(user),
                None => credential,
            };
            std::future::ready(Ok(credential))
        }),
        Some(SentinelPassword::InFile(path)) => {
            let file = PasswordFile::new(path.trim());
            cache.sentinel_credentials(match user {
                Some(user) => file.user(user),
                None => file,
            })
        }
        None => cache,
    };
    Ok(match settings.keys {
        Some(Keys::These(keys)) => cache.encryption_keys(keys),
        Some(Keys::InFile(path)) => cache.encryption_keys(read_keys(&path)?),
        None => cache,
    })
}

impl<C: SessionCache, S: SessionStore> SessionsBuilder<C, S> {
    /// Applies the variables of the handle as [`Sessions::from_env`] does: `SESSION_CACHE_ENABLED`,
    /// `SESSION_CACHE_TTL`, `SESSION_CACHE_POLICY`, `SESSION_CACHE_SLOW_MS`,
    /// `SESSION_VALIDATION_TIMEOUT_MS`, `SESSION_CHANGE_WAIT_MS`, `SESSION_JOURNAL_INTERVAL_MS`,
    /// `SESSION_DB_CONCURRENT_READS`, `SESSION_RETENTION_DAYS` and `SESSION_TRACE_IDS`. It does not
    /// apply those of the servers, the near cache and the pause. A tool beside the application has
    /// the same bounds with them.
    ///
    /// # Errors
    /// [`ConfigError`] names the variable, its value and what is allowed.
    pub fn from_env(self) -> Result<Self, ConfigError> {
        Ok(with_env_settings(self, EnvSettings::read()?))
    }
}

fn with_env_settings<C: SessionCache, S: SessionStore>(
    sessions: SessionsBuilder<C, S>,
    settings: EnvSettings,
) -> SessionsBuilder<C, S> {
    let EnvSettings { max_concurrent_reads, .. } = settings;
    let sessions = sessions
        .ttl(settings.ttl)
        .mode(settings.mode)
        .policy(settings.policy)
        .validation_timeout(settings.validation_timeout)
        .slow_lookup_threshold(settings.slow_lookup_threshold)
        .change_wait(settings.change_wait)
        .journal_interval(settings.journal_interval)
        .retention(settings.retention)
        .trace_ids(settings.trace_ids);
    if_set(sessions, max_concurrent_reads, SessionsBuilder::max_concurrent_reads)
}

impl EnvSettings {
    /// Reads the settings from the environment, as [`Sessions::from_env`] does.
    ///
    /// # Errors
    /// [`ConfigError`] names the variable, its value and what is allowed.
    pub fn read() -> Result<Self, ConfigError> {
        env_settings(variable)
    }
}

/// Applies a setting, unless its variable is not set.
fn if_set<B, T>(builder: B, value: Option<T>, setter: fn(B, T) -> B) -> B {
    match value {
        Some(value) => setter(builder, value),
        None => builder,
    }
}

#[cfg_attr(
    not(any(feature = "sqlite", all(feature = "postgres", feature = "redis"))),
    expect(unused_variables, reason = "without a store, or a cache, there is less to set")
)]
async fn open(plan: Plan) -> Result<Sessions, ConfigError> {
    let Plan { stores, handle: settings } = plan;
    let EnvSettings { near_cache, pause_after, .. } = settings;
    match stores {
        #[cfg(feature = "sqlite")]
        Stores::Embedded { path, is_default } => {
            if is_default {
                tracing::warn!(
                    path,
                    "neither DATABASE_URL nor REDIS_URL is set: sessions are kept in a SQLite file \
                     of this process alone. Set both for Postgres and Redis, or \
                     DATABASE_URL=sqlite:PATH to choose the file"
                );
            }
            let store = crate::store::SqliteStore::open(&path).await?;
            let cache = crate::cache::MemoryCache::new(EMBEDDED_CAPACITY);
            let sessions = with_env_settings(Sessions::builder(cache, store), settings);
            // Both have no effect over SQLite.
            sessions.near_cache(near_cache).pause_without_traffic(pause_after).build()
        }
        #[cfg(not(feature = "sqlite"))]
        Stores::Embedded { .. } => Err(ConfigError::MissingFeature {
            feature: "sqlite",
            needed_for: "a DATABASE_URL with sqlite: (the default if it is not set)",
        }),
        #[cfg(all(feature = "postgres", feature = "redis"))]
        Stores::Shared { database, redis } => {
            let cache = crate::cache::RedisCacheBuilder::new(Ok(redis.url));
            let cache = with_settings(cache, redis.settings)?.build()?;
            let store = open_postgres(database).await?;
            let sessions = with_env_settings(Sessions::builder(cache, store), settings);
            sessions.near_cache(near_cache).pause_without_traffic(pause_after).build()
        }
        #[cfg(feature = "postgres")]
        Stores::StoreOnly { database } => {
            let store = open_postgres(database).await?;
            let sessions = Sessions::builder(crate::cache::NoCache, store);
            let sessions = with_env_settings(sessions, settings);
            sessions.pause_without_traffic(pause_after).build()
        }
        #[allow(unreachable_patterns, reason = "with all features no case is left")]
        _ => Err(ConfigError::MissingFeature {
            feature: if cfg!(feature = "postgres") { "redis" } else { "postgres" },
            needed_for: "a DATABASE_URL with postgres://",
        }),
    }
}

/// Reads the keys from this file. An error does not repeat the path, because it may be a key in the
/// wrong variable.
#[cfg(feature = "redis")]
fn read_keys(path: &str) -> Result<crate::cache::seal::SealingKeys, ConfigError> {
    crate::cache::seal::SealingKeys::read(path).map_err(|error| {
        ConfigError::bad_keys(
            "SESSION_CACHE_KEY_FILE",
            "the path of a file with a value that SESSION_CACHE_KEY may have",
            error,
        )
    })
}

/// The maximum number of sessions in the in-process cache.
#[cfg(feature = "sqlite")]
const EMBEDDED_CAPACITY: u64 = 100_000;

#[cfg(feature = "postgres")]
async fn open_postgres(database: Database) -> Result<crate::store::PostgresStore, ConfigError> {
    let Database { url, settings } = database;
    let (migrate, patience) = (settings.migrate, settings.start_timeout);
    let store = as_set(crate::store::PostgresStoreBuilder::at(Ok(url)), settings).build()?;
    if migrate {
        migrate_once_awake(&store, patience).await.map_err(ConfigError::Store)?;
    }
    Ok(store)
}

/// Migrates. A Postgres that accepts no connections yet, such as one that a provider wakes up, is
/// tried again until `patience` is over. What only another setting can change fails at once.
#[cfg(feature = "postgres")]
async fn migrate_once_awake(
    store: &crate::store::PostgresStore,
    patience: Duration,
) -> Result<(), StoreError> {
    const PAUSE: Duration = Duration::from_millis(500);
    let ends = Instant::now() + patience;
    let mut is_logged = false;
    loop {
        match store.migrate().await {
            Err(error)
                if crate::store::heals_by_waiting(&error) && Instant::now() + PAUSE < ends =>
            {
                if !is_logged {
                    tracing::warn!(
                        %error,
                        "Postgres cannot be reached yet. The start waits for it for up to {} s \
                         (SESSION_DB_START_TIMEOUT)",
                        patience.as_secs()
                    );
                }
                is_logged = true;
                tokio::time::sleep(PAUSE).await;
            }
            migrated => return migrated,
        }
    }
}

#[cfg(feature = "postgres")]
impl crate::store::PostgresStoreBuilder {
    /// Applies the variables of the environment as [`Sessions::from_env`] does, except
    /// `DATABASE_URL`: the schema, the number of connections, the deadlines, the pooler, the
    /// password file and the settings of TLS. A password in a file is for the server of
    /// `DATABASE_URL`. It is not applied if that names another one.
    ///
    /// # Errors
    /// [`ConfigError`] names the variable, its value and what is allowed.
    pub fn from_env(self) -> Result<Self, ConfigError> {
        let mut settings = database_settings(variable)?;
        if names_another(variable("DATABASE_URL"), self.url()) {
            settings.password_file = None;
        }
        Ok(as_set(self, settings))
    }
}

#[cfg(feature = "postgres")]
fn as_set(
    store: crate::store::PostgresStoreBuilder,
    settings: DatabaseSettings,
) -> crate::store::PostgresStoreBuilder {
    let store =
        store.max_connections(settings.pool_size).schema(settings.schema).pooled(settings.pooled);
    let store = store.tls(settings.tls);
    let (read, change) = (settings.read_deadline, settings.change_deadline);
    let store = if_set(store, read, crate::store::PostgresStoreBuilder::read_deadline);
    let store = if_set(store, change, crate::store::PostgresStoreBuilder::change_deadline);
    match settings.password_file {
        Some(path) => store.credentials(PasswordFile::new(path.trim())),
        None => store,
    }
}

#[cfg(all(test, feature = "postgres"))]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;
    use crate::model::tls::TlsSettings;

    #[test]
    fn password_file_is_for_the_named_server_and_user() {
        let url: ServerUrl = "postgres://app@db/app?sslmode=require".parse().unwrap();
        for same in ["", " ", "postgresql://app@db:5432/app", "postgres://app:x@db/other?a=b"] {
            let same = same.replace("?a=b", "?application_name=web");
            assert!(!names_another(Some(same.clone()), Some(&url)), "{same}");
        }
        let parameter = "postgres://db/app?user=app".parse().unwrap();
        assert!(!names_another(Some("postgres://app@db/app".to_owned()), Some(&parameter)));
        for other in [
            "postgres://owner@db/app",
            "postgres://app@db/app?user=owner",
            "postgres://app@other/app",
            "mysql://app@db/app",
        ] {
            assert!(names_another(Some(other.to_owned()), Some(&url)), "{other}");
            assert!(!names_another(Some(other.to_owned()), None), "a pool of the application");
        }
        assert!(!names_another(None, Some(&url)));
    }

    #[test]
    fn planned_settings_reach_the_store_builder() {
        for pooled in [true, false] {
            let settings = DatabaseSettings {
                pool_size: 7,
                schema: "auth".to_owned(),
                migrate: false,
                pooled,
                password_file: Some("/run/secrets/postgres".to_owned()),
                tls: TlsSettings::new().insecure(true),
                start_timeout: Duration::ZERO,
                read_deadline: Some(Duration::from_millis(300)),
                change_deadline: None,
            };
            let store = as_set(crate::store::PostgresStore::builder("postgres://h/d"), settings);
            let shown = format!("{store:?}");
            assert!(shown.contains(&format!("pooled: {pooled}")), "{shown}");
            assert!(shown.contains("auth"), "{shown}");
            assert!(shown.contains("credentials: true"), "{shown}");
            assert!(shown.contains("max_connections: Some(7)"), "{shown}");
            assert!(shown.contains("insecure: true"), "{shown}");
            assert!(shown.contains("read_deadline: 300ms, change_deadline: 2s"), "{shown}");
        }
    }
}
