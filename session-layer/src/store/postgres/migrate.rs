//! Our tables, in a schema of our own.
//!
//! Everything happens in one transaction of a connection from the pool: what is set for it
//! (`search_path` above all) ends with it, a pooler in between does no harm, and several processes at
//! once take turns at an advisory lock. The bookkeeping is a table of our own beside the others, so it
//! never meets the application's; `sqlx`'s Migrator is not used because its lock and its
//! settings outlive a transaction, and because it writes (CREATE … IF NOT EXISTS) where nothing is to do.

use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, SqlStr};
use tokio::time::timeout;

use super::PostgresStore;
use super::ask::within;
use super::errors::{self, Sent};
use crate::error::{StoreError, StoreErrorKind};

/// How long all of it may take: a later migration may build an index over every session.
const MIGRATING: Duration = Duration::from_secs(300);
/// How long a look at whether Postgres is there may take.
const REACHING: Duration = Duration::from_secs(5);

/// Every migration there is, oldest first. They only ever add, within a major version.
fn migrations() -> [Migration; 1] {
    [Migration::new(
        1,
        "sessions".into(),
        MigrationType::Simple,
        SqlStr::from_static(include_str!(
            "../../../migrations/postgres/0001_sessions.sql"
        )),
        false,
    )]
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
        let sent = Sent::default();
        let migrating = async {
            let mut connection = match self.connections.get().await {
                Ok(connection) => connection,
                // The pool does not say why. A connection outside of it does.
                Err(error) => return Err(self.reach().await.err().unwrap_or(error)),
            };
            match self.migrate_over(&mut connection).await {
                Ok(()) => {
                    connection.give_back();
                    Ok(())
                }
                Err(failure) => Err(self.why(failure, &sent)),
            }
        };
        within(MIGRATING, &sent, migrating).await
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
            Ok(reached) => reached.map_err(|error| errors::of_connecting(error, None)),
            Err(_) => Err(errors::timed_out(&Sent::default(), REACHING)),
        }
    }

    fn table(&self) -> String {
        format!("{}.session_layer_migrations", self.schema.quoted())
    }

    async fn migrate_over(&self, connection: &mut PgConnection) -> Result<(), MigrateError> {
        match self.pending(connection).await {
            Ok(pending) if pending.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(MigrateError::Execute(error)) if is_missing_table(&error) => {}
            Err(error) => return Err(error),
        }
        let schema = self.schema.as_str();
        let quoted = self.schema.quoted();
        let mut transaction = connection
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            .await?;
        sqlx::query(
            "SELECT set_config('statement_timeout', '0', true), \
             set_config('lock_timeout', '60s', true), \
             set_config('idle_in_transaction_session_timeout', '60s', true), \
             set_config('search_path', $1, true)",
        )
        // pg_temp last: nobody's temporary table may stand in for one of ours in the functions that
        // keep this path.
        .bind(format!("{quoted}, pg_temp"))
        .execute(&mut *transaction)
        .await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('session-layer ' || $1, 0))")
            .bind(schema.to_owned())
            .execute(&mut *transaction)
            .await?;
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
                .bind(schema.to_owned())
                .fetch_one(&mut *transaction)
                .await?;
        if !exists {
            let create = AssertSqlSafe(format!("CREATE SCHEMA {quoted}"));
            sqlx::query(create).execute(&mut *transaction).await?;
        }
        let table = self.table();
        transaction.ensure_migrations_table(&table).await?;
        for migration in &self.pending(&mut transaction).await? {
            transaction.apply(&table, migration).await?;
        }
        // So that a role with rights on the sessions alone can see that nothing is to do.
        let grant = AssertSqlSafe(format!("GRANT SELECT ON {table} TO PUBLIC"));
        sqlx::query(grant).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// What is not applied yet. Those applied that we do not know are a newer version's.
    async fn pending(&self, connection: &mut PgConnection) -> Result<Vec<Migration>, MigrateError> {
        let applied = connection.list_applied_migrations(&self.table()).await?;
        let mut pending = Vec::new();
        for migration in migrations() {
            match applied.iter().find(|a| a.version == migration.version) {
                None => pending.push(migration),
                Some(applied) if applied.checksum == migration.checksum => {}
                Some(_) => return Err(MigrateError::VersionMismatch(migration.version)),
            }
        }
        Ok(pending)
    }

    fn why(&self, failure: MigrateError, sent: &Sent) -> StoreError {
        match failure {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                let denied = matches!(&error, sqlx::Error::Database(e) if e.code().as_deref() == Some("42501"));
                if denied {
                    return StoreError::new(
                        StoreErrorKind::Denied,
                        format!(
                            "our role may not create the tables in the schema {0}: as an owner, run CREATE SCHEMA {0} \
                             AUTHORIZATION our_role (or GRANT USAGE, CREATE ON SCHEMA {0}); or migrate as a role that \
                             may, and GRANT this one USAGE on the schema and its rights on the tables",
                            self.schema
                        ),
                    )
                    .with_source(error);
                }
                errors::of_statement(error, sent)
            }
            MigrateError::VersionMismatch(version) => StoreError::new(
                StoreErrorKind::Schema,
                format!(
                    "migration {version} in the schema {} is not the one this version has: the tables were made by \
                     another build; use a schema of its own (SESSION_DB_SCHEMA), or uninstall.sql",
                    self.schema
                ),
            ),
            other => StoreError::new(
                StoreErrorKind::Schema,
                format!("migrating the schema {} failed", self.schema),
            )
            .with_source(other),
        }
    }
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if matches!(e.code().as_deref(), Some("42P01" | "3F000")))
}
