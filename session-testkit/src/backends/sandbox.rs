//! A schema and a key namespace per test, for many tests on one pair of servers.

use std::time::Duration;

use redis::AsyncCommands as _;
use session_layer::server_url::ServerUrl;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::timeout;

use super::{
    chain,
    error::BackendError,
    postgres,
    server::{PostgresServer, RedisServer},
};
use crate::wait;

/// The limit for cleaning up in a drop, because a paused or stopped server must not delay a test.
const CLEANUP: Duration = Duration::from_secs(5);
/// The limit for cleaning up on request. A benchmark removes millions of keys.
const LONG_CLEANUP: Duration = Duration::from_secs(60);

/// A unique schema name and key namespace on a pair of servers.
///
/// The schema does not exist until the code under test migrates. Dropping the sandbox, also after a
/// panic, removes the schema and the keys. It skips this for servers that we started, because they
/// are removed with all their data.
#[derive(Debug)]
pub struct Sandbox {
    schema: String,
    namespace: String,
    /// A role to drop with the schema.
    role: Option<String>,
    redis: ServerUrl,
    postgres: ServerUrl,
    /// Whether to clean up when dropped.
    armed: bool,
}

impl Sandbox {
    pub(super) fn new(redis: &RedisServer, postgres: &PostgresServer) -> Self {
        let id = uuid::Uuid::new_v4().simple();
        Self {
            schema: format!("testkit_{id}"),
            // Short enough for a key without an allocation, as an application's is.
            namespace: format!("testkit-{:.16}", id.to_string()),
            role: None,
            redis: redis.server_url().clone(),
            postgres: postgres.server_url().clone(),
            armed: redis.backend().is_none() || postgres.backend().is_none(),
        }
    }

    /// Returns the name of a Postgres schema (`SESSION_DB_SCHEMA`), which needs no quoting.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Returns the prefix of Redis keys (`SESSION_CACHE_NAMESPACE`), which precedes a colon.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the URL of the Redis, without a proxy.
    pub fn redis_url(&self) -> &str {
        self.redis.expose().as_str()
    }

    /// Returns the URL of the Postgres, without a proxy.
    pub fn database_url(&self) -> &str {
        self.postgres.expose().as_str()
    }

    /// Makes the sandbox drop this role with the schema.
    pub(crate) fn set_role(&mut self, role: String) {
        self.role = Some(role);
    }

    /// Removes the schema and the keys now. Unlike a drop, it returns an error if that fails.
    ///
    /// # Errors
    /// [`BackendError::Failed`] or, after 60 s, [`BackendError::Deadline`].
    pub async fn cleanup(mut self) -> Result<(), BackendError> {
        self.armed = false;
        self.remove(LONG_CLEANUP).await
    }

    /// Removes the keys and the schema. An error of one does not stop the other.
    async fn remove(&self, waited: Duration) -> Result<(), BackendError> {
        let (keys, schema) = tokio::join!(
            timeout(waited, self.remove_keys()),
            timeout(waited, self.remove_schema())
        );
        let late = |server| move |_| BackendError::Deadline { action: "clean up", server, waited };
        keys.map_err(late("Redis"))?.map_err(BackendError::failed("remove the sandbox's keys"))?;
        let dropped = schema.map_err(late("Postgres"))?;
        dropped.map_err(BackendError::failed("drop the sandbox's schema"))
    }

    async fn remove_keys(&self) -> redis::RedisResult<()> {
        let client = redis::Client::open(self.redis.expose().clone())?;
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
        let options = postgres::options(&self.postgres)?;
        let mut connection = sqlx::PgConnection::connect_with(&options).await?;
        let mut statements = format!("DROP SCHEMA IF EXISTS {} CASCADE;", self.schema);
        if let Some(role) = &self.role {
            statements += &format!("DROP OWNED BY {role}; DROP ROLE {role};");
        }
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await?;
        connection.close().await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(Err(error)) = wait::blocking(self.remove(CLEANUP)) {
            tracing::warn!(
                error = chain(&error),
                schema = self.schema,
                namespace = self.namespace,
                "a sandbox could not be removed"
            );
        }
    }
}
