//! The deployment that a command operates: the servers of its flags, or of the application's
//! environment.

use std::time::Duration;

use session_layer::Sessions;
use session_layer::cache::{NoCache, RedisCache};
use session_layer::store::PostgresStore;
use session_tools::Failure;
use tokio::time::{Instant, sleep};

/// How long a change may wait for its turn. No client waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a command waits until Redis is connected. Without it a change is `committed` only.
const CONNECTING: Duration = Duration::from_secs(3);
/// How many connections of Postgres a command opens at most. The application needs the others.
const CONNECTIONS: u32 = 4;

/// The arguments that name the deployment. Other settings come from the application's environment.
#[derive(clap::Args)]
pub(crate) struct Servers {
    /// The application's Redis.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,

    #[command(flatten)]
    database: Database,
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

impl Database {
    /// Returns the store. It connects when it is first used, and migrates nothing.
    pub(crate) fn store(&self) -> Result<PostgresStore, Failure> {
        let url = set(self.database_url.as_ref()).ok_or(NoDeployment::NoPostgres)?;
        if url.split(':').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("sqlite")) {
            return Err(NoDeployment::Sqlite.into());
        }
        let builder = PostgresStore::builder(url).from_env()?.max_connections(CONNECTIONS);
        Ok(match set(Some(&self.schema)) {
            Some(schema) => builder.schema(schema).build()?,
            None => builder.build()?,
        })
    }
}

impl Servers {
    /// Returns the store alone, for commands that change nothing.
    pub(crate) fn store(&self) -> Result<PostgresStore, Failure> {
        self.database.store()
    }

    /// Returns a node of the deployment, for commands that change sessions.
    ///
    /// It has the application's bounds. It deletes no ended sessions, because only the application
    /// knows for how long they are kept.
    pub(crate) async fn sessions(&self) -> Result<Sessions, Failure> {
        let store = self.store()?;
        let Some(url) = set(self.redis_url.as_ref()) else {
            let off = std::env::var("SESSION_CACHE_ENABLED");
            if !off.is_ok_and(|on| ["false", "0"].contains(&on.trim())) {
                return Err(NoDeployment::NoRedis.into());
            }
            let sessions = Sessions::builder(NoCache, store).from_env()?;
            return Ok(sessions.retention(None).change_wait(PATIENCE).build()?);
        };
        let cache = RedisCache::builder(url).from_env()?.pool_size(2).build()?;
        let sessions = Sessions::builder(cache, store).from_env()?;
        let sessions = sessions.retention(None).change_wait(PATIENCE).build()?;
        let by = Instant::now() + CONNECTING;
        while !sessions.cache_status().connected && Instant::now() < by {
            sleep(Duration::from_millis(10)).await;
        }
        if !sessions.cache_status().connected {
            eprintln!(
                "sessionctl: Redis cannot be reached, so changes hold within the bounds of \
                 `committed`. `sessionctl check` shows the cause"
            );
        }
        Ok(sessions)
    }
}

/// Ends a command's node. What is still under way then ends with the process.
pub(crate) async fn shut_down(sessions: &Sessions) {
    let _late = sessions.shutdown(PATIENCE).await;
}
