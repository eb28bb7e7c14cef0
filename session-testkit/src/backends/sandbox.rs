//! Many tests on one pair of servers: each in a schema and key namespace of its own.

use std::time::Duration;

use redis::AsyncCommands as _;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::timeout;

use super::{
    error::{BackendError, chain},
    server::{PostgresServer, RedisServer},
};
use crate::wait;

/// Cleaning up is for others' sake; it may not hold up a test whose server is paused or dead.
const CLEANUP: Duration = Duration::from_secs(5);

/// A schema name and a key namespace that nobody else has, on a pair of servers.
///
/// Nothing is made here: the schema comes into being when the code under test migrates. When the
/// sandbox is dropped, also after a panic, the schema and the keys are removed, if the servers
/// outlive the test (servers of one's own are thrown away with all that they hold).
#[derive(Debug)]
pub struct Sandbox {
    schema: String,
    namespace: String,
    redis_url: String,
    database_url: String,
    /// Whether to clean up when dropped.
    armed: bool,
}

impl Sandbox {
    pub(super) fn new(redis: &RedisServer, postgres: &PostgresServer) -> Self {
        let id = uuid::Uuid::new_v4().simple();
        Self {
            schema: format!("testkit_{id}"),
            namespace: format!("testkit-{id}"),
            redis_url: redis.url().to_owned(),
            database_url: postgres.url().to_owned(),
            armed: redis.backend().is_none() || postgres.backend().is_none(),
        }
    }

    /// A name for a Postgres schema (`SESSION_DB_SCHEMA`); needs no quoting.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// A prefix for Redis keys (`SESSION_CACHE_NAMESPACE`), to be followed by a colon.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How to reach the Redis, without a proxy in between.
    #[must_use]
    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// How to reach the Postgres, without a proxy in between.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Cleans up now; unlike a drop, says so if that fails.
    ///
    /// # Errors
    ///
    /// [`BackendError::Redis`], [`BackendError::Postgres`] or, after 5 s, [`BackendError::Deadline`].
    pub async fn cleanup(mut self) -> Result<(), BackendError> {
        self.armed = false;
        self.remove().await
    }

    /// Both are tried, whatever becomes of the other.
    async fn remove(&self) -> Result<(), BackendError> {
        let (keys, schema) = tokio::join!(
            timeout(CLEANUP, self.remove_keys()),
            timeout(CLEANUP, self.remove_schema())
        );
        let late = |server| {
            move |_| BackendError::Deadline {
                action: "clean up",
                server,
                waited: CLEANUP,
            }
        };
        keys.map_err(late("Redis"))?
            .map_err(|source| BackendError::Redis {
                action: "remove the sandbox's keys",
                source,
            })?;
        schema
            .map_err(late("Postgres"))?
            .map_err(|source| BackendError::Postgres {
                action: "drop the sandbox's schema",
                source,
            })
    }

    async fn remove_keys(&self) -> redis::RedisResult<()> {
        let client = redis::Client::open(self.redis_url.as_str())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let pattern = format!("{}:*", self.namespace);
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut connection)
                .await?;
            if !keys.is_empty() {
                connection.unlink::<_, ()>(keys).await?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    async fn remove_schema(&self) -> sqlx::Result<()> {
        let mut connection = sqlx::PgConnection::connect(&self.database_url).await?;
        let statement = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema);
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await?;
        connection.close().await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(Err(error)) = wait::blocking(self.remove()) {
            tracing::warn!(
                error = chain(&error),
                schema = self.schema,
                namespace = self.namespace,
                "a sandbox was left behind"
            );
        }
    }
}
