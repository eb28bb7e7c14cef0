//! The deployment that a command operates: the servers of its flags, or of the application's
//! environment.

use std::time::Duration;

use serde_json::{Value, json};
use session_layer::cache::{NoCache, RedisCache, SessionCache};
use session_layer::store::PostgresStore;
use session_layer::{PartitionPolicy, Sessions};
use session_tools::{
    Failure, output,
    values::{DAY, duration},
};
use tokio::time::{Instant, sleep};

/// How long a call of Postgres may take, connecting included, and a change may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a command waits until Redis is connected. Without it a change is `committed` only.
const CONNECTING: Duration = Duration::from_secs(3);
/// How many connections of Postgres a command opens at most. The application needs the others.
const CONNECTIONS: u32 = 4;
/// The shortest interval of the journal's reads that an application may set.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// The arguments that name the servers. Other settings come from the application's environment.
/// Every command has them.
#[derive(clap::Args)]
pub(crate) struct Servers {
    /// The application's Redis.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,

    #[command(flatten)]
    database: Database,
}

/// The arguments that name the deployment and the settings that a change of sessions depends on.
/// The URLs alone are not enough: the namespace decides which entries are removed, and the others
/// decide from when on every node rejects a session.
#[derive(clap::Args)]
pub(crate) struct Deployment {
    #[command(flatten)]
    servers: Servers,

    /// The prefix of the application's keys.
    #[arg(
        long,
        env = "SESSION_CACHE_NAMESPACE",
        default_value = "session-layer",
        value_name = "NAME"
    )]
    namespace: String,

    /// How long the application serves an entry, in seconds: 1 to 86400.
    #[arg(
        long,
        env = "SESSION_CACHE_TTL",
        default_value = "300",
        value_name = "SECONDS",
        value_parser = ttl
    )]
    ttl: Duration,

    /// What the application's nodes do while they lack Postgres: available or fail-closed.
    #[arg(
        long,
        env = "SESSION_CACHE_POLICY",
        default_value = "available",
        value_name = "POLICY",
        value_parser = policy
    )]
    policy: PartitionPolicy,

    /// How often the application's nodes read the journal. A number alone is in milliseconds.
    #[arg(
        long,
        env = "SESSION_JOURNAL_INTERVAL_MS",
        default_value = "500ms",
        value_name = "DURATION",
        value_parser = interval
    )]
    journal_interval: Duration,

    /// Whether the application's Redis has replicas or fails over. An entry may then come back.
    #[arg(
        long,
        env = "SESSION_CACHE_REPLICATED",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_name = "true|false",
        value_parser = yes_or_no
    )]
    cache_replicated: bool,
}

/// Reads a switch, as the application does.
fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text.trim() {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        _ => Err("it is true, false, 1 or 0"),
    }
}

/// Reads the TTL, in the range that the application allows.
fn ttl(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.trim().parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or("it is whole seconds from 1 to 86400")
}

/// Reads an interval. The variable of the application has no unit.
fn interval(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unit = if is_number { "ms" } else { "" };
    duration(SHORTEST_INTERVAL, DAY)(&format!("{text}{unit}"))
}

fn policy(text: &str) -> Result<PartitionPolicy, &'static str> {
    match text.trim() {
        "available" => Ok(PartitionPolicy::Available),
        "fail-closed" => Ok(PartitionPolicy::FailClosed),
        _ => Err("it is available or fail-closed"),
    }
}

/// The arguments that name the application's Postgres.
#[derive(clap::Args)]
pub(crate) struct Database {
    /// The application's Postgres.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// The Postgres schema of session-layer's tables.
    #[arg(long, env = "SESSION_DB_SCHEMA", default_value = "session_layer", value_name = "NAME")]
    schema: String,
}

/// The reason why there is no deployment to operate.
#[derive(Debug, thiserror::Error)]
enum NoDeployment {
    #[error(
        "no Postgres is named: set DATABASE_URL as the application has it, or pass --database-url \
         postgres://…"
    )]
    NoPostgres,
    #[error(
        "DATABASE_URL is sqlite:, a file that only the application's own process may open: use \
         the application's pages, or stop it and use the sqlite3 shell"
    )]
    Sqlite,
    #[error(
        "no Redis is named, so entries there would stay until the nodes read of the change: set \
         REDIS_URL as the application has it, or SESSION_CACHE_ENABLED=false if it has none"
    )]
    NoRedis,
}

/// Returns a set value. An empty variable counts as not set.
fn set(value: Option<&String>) -> Option<&str> {
    value.map(|value| value.trim()).filter(|value| !value.is_empty())
}

/// Returns whether the application's environment turns the cache off.
pub(crate) fn cache_is_off() -> bool {
    std::env::var("SESSION_CACHE_ENABLED").is_ok_and(|on| ["false", "0"].contains(&on.trim()))
}

impl Database {
    /// Returns the store. It connects when it is first used, and migrates nothing.
    pub(crate) fn store(&self) -> Result<PostgresStore, Failure> {
        let url = set(self.database_url.as_ref()).ok_or(NoDeployment::NoPostgres)?;
        if url.split(':').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("sqlite")) {
            return Err(NoDeployment::Sqlite.into());
        }
        let builder = PostgresStore::builder(url).from_env()?.max_connections(CONNECTIONS);
        // An operator may be far away, and no request waits.
        let builder = builder.read_deadline(PATIENCE).change_deadline(PATIENCE);
        Ok(builder.schema(self.schema()).build()?)
    }

    fn schema(&self) -> &str {
        set(Some(&self.schema)).unwrap_or("session_layer")
    }
}

impl Servers {
    pub(crate) fn redis_url(&self) -> Option<&str> {
        set(self.redis_url.as_ref())
    }

    pub(crate) fn database_url(&self) -> Option<&str> {
        set(self.database.database_url.as_ref())
    }

    pub(crate) fn schema(&self) -> &str {
        self.database.schema()
    }

    /// Returns the store alone, for commands that change nothing.
    pub(crate) fn store(&self) -> Result<PostgresStore, Failure> {
        self.database.store()
    }
}

impl Deployment {
    /// Returns the store alone, to search for what will change.
    pub(crate) fn store(&self) -> Result<PostgresStore, Failure> {
        self.servers.store()
    }

    /// Returns the settings in use, for an operator to compare with the application's.
    pub(crate) fn line(&self) -> String {
        format!(
            "namespace {}, schema {}, TTL {} s, policy {}, journal read every {:?}, Redis with \
             replicas: {}. The bounds hold if the application has the same settings",
            self.namespace(),
            self.schema(),
            self.ttl.as_secs(),
            self.policy_name(),
            self.journal_interval,
            self.cache_replicated
        )
    }

    /// Returns the settings in use as a part of a JSON document.
    pub(crate) fn json(&self) -> Value {
        json!({
            "namespace": self.namespace(),
            "schema": self.schema(),
            "ttl": self.ttl.as_secs(),
            "policy": self.policy_name(),
            "journalIntervalMs": u64::try_from(self.journal_interval.as_millis()).ok(),
            "cacheReplicated": self.cache_replicated,
        })
    }

    /// Returns a node of the deployment, which changes sessions with the application's bounds.
    ///
    /// It deletes no ended sessions, because only the application knows for how long they are kept.
    pub(crate) async fn sessions(&self) -> Result<Sessions, Failure> {
        let store = self.store()?;
        let Some(url) = self.servers.redis_url() else {
            if !cache_is_off() {
                return Err(NoDeployment::NoRedis.into());
            }
            return self.node(NoCache, store);
        };
        let cache = RedisCache::builder(url).from_env()?.pool_size(2).namespace(self.namespace());
        let cache = cache.replicated(self.cache_replicated);
        let sessions = self.node(cache.build()?, store)?;
        let by = Instant::now() + CONNECTING;
        while !sessions.cache_status().connected && Instant::now() < by {
            sleep(Duration::from_millis(10)).await;
        }
        if !sessions.cache_status().connected {
            output::complain(
                "sessionctl: Redis cannot be reached, so changes hold within the bounds of \
                 `committed`. `sessionctl check` shows the cause",
            );
        }
        Ok(sessions)
    }

    fn node(&self, cache: impl SessionCache, store: PostgresStore) -> Result<Sessions, Failure> {
        let sessions = Sessions::builder(cache, store).from_env()?;
        let sessions = sessions.ttl(self.ttl).policy(self.policy);
        let sessions = sessions.journal_interval(self.journal_interval);
        Ok(sessions.retention(None).change_wait(PATIENCE).build()?)
    }

    fn namespace(&self) -> &str {
        set(Some(&self.namespace)).unwrap_or("session-layer")
    }

    fn schema(&self) -> &str {
        self.servers.schema()
    }

    fn policy_name(&self) -> &'static str {
        match self.policy {
            PartitionPolicy::FailClosed => "fail-closed",
            _ => "available",
        }
    }
}

/// Ends a command's node. What is still under way then ends with the process.
pub(crate) async fn shut_down(sessions: &Sessions) {
    let _late = sessions.shutdown(PATIENCE).await;
}
