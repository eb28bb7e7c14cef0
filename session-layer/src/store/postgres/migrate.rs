//! Our tables, in a schema of our own.
//!
//! Everything happens in one transaction of a connection from the pool: what is set for it
//! (`search_path` above all) ends with it, a pooler in between does no harm, and several processes at
//! once take turns at an advisory lock. The bookkeeping is a table of our own beside the others, so it
//! never meets the application's. sqlx's Migrator is not used: its lock outlives a transaction, it
//! leaves prepared statements behind, and it writes (CREATE … IF NOT EXISTS) where nothing is to do.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;

use super::PostgresStore;
use super::ask::within;
use super::errors::{self, Progress};
use crate::error::{StoreError, StoreErrorKind};

/// How long all of it may take: a later migration may build an index over every session.
const MIGRATING: Duration = Duration::from_secs(300);
/// How long a look at whether Postgres is there may take.
const REACHING: Duration = Duration::from_secs(5);

/// One step. What was released is never changed: its checksum is compared.
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

impl Migration {
    fn checksum(&self) -> Vec<u8> {
        Sha256::digest(self.sql).to_vec()
    }
}

/// Every migration there is, oldest first. They only ever add, within a major version.
const MIGRATIONS: [Migration; 5] = [
    Migration {
        version: 1,
        name: "sessions",
        sql: include_str!("../../../migrations/postgres/0001_sessions.sql"),
    },
    Migration {
        version: 2,
        name: "housekeeping",
        sql: include_str!("../../../migrations/postgres/0002_housekeeping.sql"),
    },
    Migration {
        version: 3,
        name: "persistent",
        sql: include_str!("../../../migrations/postgres/0003_persistent.sql"),
    },
    Migration {
        version: 4,
        name: "epoch_by_hand",
        sql: include_str!("../../../migrations/postgres/0004_epoch_by_hand.sql"),
    },
    Migration {
        version: 5,
        name: "floor_past_oneself",
        sql: include_str!("../../../migrations/postgres/0005_floor_past_oneself.sql"),
    },
];

/// Why it was not done.
enum Failure {
    Statement(sqlx::Error),
    /// This one was applied in another form.
    Differs(i64),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement(error)
    }
}

impl PostgresStore {
    /// Creates our tables, or brings them up to date. Safe to call from several processes at once.
    ///
    /// Where everything is there already, one SELECT is all that happens, and rights on the rows are
    /// enough. Otherwise our role must be able to create tables in the schema; CREATE on the database
    /// is needed only where the schema itself is missing. A schema that a newer version of this crate
    /// has migrated is left as it is.
    ///
    /// # Errors
    /// [`StoreError`]: Postgres cannot be reached, our role lacks a right, or a migration that was
    /// applied differs from the one this version has.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let progress = Progress::default();
        let migrating = async {
            let mut connection = match self.connections.get().await {
                Ok(connection) => connection,
                // The pool does not say why. A connection outside of it does.
                Err(error) => return Err(self.reach().await.err().unwrap_or(error)),
            };
            progress.asking();
            match self.migrate_over(&mut connection).await {
                Ok(()) => {
                    connection.give_back();
                    Ok(())
                }
                Err(failure) => Err(self.why(failure, &progress)),
            }
        };
        within(MIGRATING, &progress, migrating).await
    }

    /// Does Postgres let us in? If not, the error says why.
    pub(super) async fn reach(&self) -> Result<(), StoreError> {
        let options = self.connections.pool().connect_options();
        let reaching = async {
            let mut connection = options.connect().await?;
            connection.ping().await?;
            connection.close().await
        };
        match timeout(REACHING, reaching).await {
            Ok(reached) => reached.map_err(errors::of_connecting),
            Err(_) => Err(errors::timed_out(&Progress::default(), REACHING)),
        }
    }

    async fn migrate_over(&self, connection: &mut PgConnection) -> Result<(), Failure> {
        // One SELECT, which is all where everything is applied. In a transaction for the poolers.
        let mut look = connection.begin().await?;
        match self.pending(&mut look).await {
            Ok(pending) if pending.is_empty() => {
                look.commit().await?;
                return Ok(());
            }
            Ok(_) => {}
            Err(Failure::Statement(error)) if is_missing_table(&error) => {}
            Err(failure) => return Err(failure),
        }
        look.rollback().await?;

        let mut transaction = connection
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            .await?;
        self.prepare(&mut transaction).await?;
        for migration in self.pending(&mut transaction).await? {
            self.apply(&mut transaction, migration).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Alone, in our schema, with the bookkeeping there.
    async fn prepare(&self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let schema = self.schema.as_str();
        let quoted = self.schema.quoted();
        sqlx::query(
            "SELECT set_config('statement_timeout', '0', true), \
             set_config('lock_timeout', '60s', true), \
             set_config('idle_in_transaction_session_timeout', '60s', true), \
             set_config('search_path', $1, true)",
        )
        // pg_temp last: nobody's temporary table may stand in for one of ours in the functions that
        // keep this path.
        .bind(format!("{quoted}, pg_temp"))
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('session-layer ' || $1, 0))")
            .bind(schema.to_owned())
            .persistent(false)
            .execute(&mut *transaction)
            .await?;
        let exists = sqlx::query("SELECT FROM pg_namespace WHERE nspname = $1")
            .bind(schema.to_owned())
            .persistent(false)
            .fetch_optional(&mut *transaction)
            .await?;
        if exists.is_none() {
            let create = AssertSqlSafe(format!("CREATE SCHEMA {quoted}"));
            sqlx::raw_sql(create).execute(&mut *transaction).await?;
        }
        // Everyone may read it, so that a role with rights on the sessions alone can see that nothing
        // is to be done. (Who has no USAGE on the schema cannot.)
        sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS session_layer_migrations ( \
               version bigint PRIMARY KEY, name text NOT NULL, checksum bytea NOT NULL, \
               applied_at timestamptz NOT NULL DEFAULT now()); \
             GRANT SELECT ON session_layer_migrations TO PUBLIC",
        )
        .execute(&mut *transaction)
        .await?;
        Ok(())
    }

    /// What is not applied yet. Those applied that we do not know are a newer version's.
    async fn pending(
        &self,
        transaction: &mut PgConnection,
    ) -> Result<Vec<&'static Migration>, Failure> {
        let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT version, checksum FROM {}.session_layer_migrations",
            self.schema.quoted()
        )))
        .persistent(false)
        .fetch_all(transaction)
        .await?;
        let mut pending = Vec::new();
        for migration in &MIGRATIONS {
            match applied
                .iter()
                .find(|(version, _)| *version == migration.version)
            {
                None => pending.push(migration),
                Some((_, checksum)) if *checksum == migration.checksum() => {}
                Some(_) => return Err(Failure::Differs(migration.version)),
            }
        }
        Ok(pending)
    }

    async fn apply(
        &self,
        transaction: &mut PgConnection,
        migration: &Migration,
    ) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(migration.sql)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO session_layer_migrations (version, name, checksum) VALUES ($1, $2, $3)",
        )
        .bind(migration.version)
        .bind(migration.name)
        .bind(migration.checksum())
        .persistent(false)
        .execute(transaction)
        .await?;
        tracing::info!(
            version = migration.version,
            name = migration.name,
            schema = self.schema.as_str(),
            "migrated the session tables"
        );
        Ok(())
    }

    fn why(&self, failure: Failure, progress: &Progress) -> StoreError {
        match failure {
            Failure::Statement(error) if is_denied(&error) => StoreError::new(
                StoreErrorKind::Denied,
                format!(
                    "our role may not create the tables in the schema {0}: as an owner, run CREATE SCHEMA {0} \
                     AUTHORIZATION our_role (or GRANT USAGE, CREATE ON SCHEMA {0}); or migrate as a role that may, \
                     and GRANT this one USAGE on the schema and its rights on the tables",
                    self.schema
                ),
            )
            .with_source(error),
            Failure::Statement(error) => errors::of_statement(error, progress),
            Failure::Differs(version) => StoreError::new(
                StoreErrorKind::Schema,
                format!(
                    "migration {version} in the schema {} is not the one this version has: the tables were made by \
                     another build; use a schema of its own (SESSION_DB_SCHEMA), or uninstall.sql",
                    self.schema
                ),
            ),
        }
    }
}

fn is_denied(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.code().as_deref() == Some("42501"))
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if matches!(e.code().as_deref(), Some("42P01" | "3F000")))
}
