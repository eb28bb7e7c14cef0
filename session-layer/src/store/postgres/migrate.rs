//! Migration of our tables, in a schema of their own.
//!
//! All steps happen in one transaction of a connection from the pool. Settings such as
//! `search_path` end with it, a pooler in between does no harm, and an advisory lock serializes
//! concurrent processes. The bookkeeping is a table in the same schema, so it is separate from the
//! application's. sqlx's Migrator is not used. Its lock outlives a transaction, it leaves prepared
//! statements behind, and it writes (CREATE … IF NOT EXISTS) even if there is nothing to do.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::PostgresStore;
use super::connection::REACHING;
use super::errors::{self, Progress};
use super::execute::within;
use crate::model::error::{StoreError, StoreErrorKind};

/// How long a migration may take. A later one may build an index over every session.
const MIGRATING: Duration = Duration::from_secs(300);

/// One migration, with `@schema@` for the quoted name of our schema. A released one is never
/// changed, because its checksum is compared.
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

impl Migration {
    fn checksum(&self) -> Vec<u8> {
        Sha256::digest(self.sql).to_vec()
    }

    /// Returns the SQL that applies the migration and records it.
    fn applied_sql(&self, quoted: &str) -> String {
        use std::fmt::Write as _;

        let sql = self.sql.replace("@schema@", quoted);
        let mut checksum = String::new();
        for byte in self.checksum() {
            let _infallible = write!(checksum, "{byte:02x}");
        }
        let Self { version, name, .. } = self;
        format!(
            "{sql}\nINSERT INTO {quoted}.session_layer_migrations (version, name, checksum) \
             VALUES ({version}, '{name}', decode('{checksum}', 'hex'));\n"
        )
    }
}

/// All migrations, oldest first. Within a major version they only add.
const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "sessions",
    sql: include_str!("../../../migrations/postgres/0001_sessions.sql"),
}];

/// What [`PostgresStore::migrate`] would do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationPlan {
    /// The schema of the tables.
    pub schema: String,
    /// The migrations that are missing, in order. Empty if the tables are up to date.
    pub missing: Vec<PlannedMigration>,
    creates_schema: bool,
}

/// A migration that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedMigration {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: &'static str,
    sql: String,
}

impl MigrationPlan {
    /// Returns whether nothing is missing.
    #[must_use]
    pub fn is_up_to_date(&self) -> bool {
        self.missing.is_empty()
    }

    /// Returns the SQL that does the same as [`PostgresStore::migrate`], in one transaction, for a
    /// role that may create the tables. It is empty if the tables are up to date. It can be run
    /// beside other processes that migrate. It fails if the plan is out of date by then.
    #[must_use]
    pub fn sql(&self) -> String {
        if self.is_up_to_date() {
            return String::new();
        }
        let name = &self.schema;
        let mut sql = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\n\
             SET LOCAL search_path = pg_catalog, pg_temp;\n\
             SET LOCAL lock_timeout = '60s';\n\
             SELECT pg_advisory_xact_lock(hashtextextended('session-layer {name}', 0));\n"
        );
        if self.creates_schema {
            sql += &format!("CREATE SCHEMA \"{name}\";\n");
        }
        sql += &bookkeeping(&format!("\"{name}\""));
        sql += "\n";
        for migration in &self.missing {
            sql += &migration.sql;
        }
        sql + "COMMIT;\n"
    }
}

/// Returns the SQL that creates the table of applied migrations, if it is missing.
///
/// Every role may read it. A role with rights on the sessions alone can then see that there is
/// nothing to do. Without USAGE on the schema it cannot.
fn bookkeeping(quoted: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {quoted}.session_layer_migrations ( \
           version bigint PRIMARY KEY, name text NOT NULL, checksum bytea NOT NULL, \
           applied_at timestamptz NOT NULL DEFAULT now()); \
         GRANT SELECT ON {quoted}.session_layer_migrations TO PUBLIC;"
    )
}

/// The reason why a migration failed.
enum MigrationFailure {
    Statement(sqlx::Error),
    /// An applied migration whose checksum differs.
    Differs(i64),
    /// Roles that may create objects in the schema.
    Open(String),
}

impl From<sqlx::Error> for MigrationFailure {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement(error)
    }
}

impl PostgresStore {
    /// Creates our tables, or brings them up to date. Several processes may call it concurrently.
    ///
    /// If nothing is missing, it sends one SELECT, and rights on the rows are enough. Otherwise our
    /// role must be able to create tables in the schema. CREATE on the database is needed only if
    /// the schema itself is missing. A schema that a newer version of this crate has migrated
    /// remains as it is.
    ///
    /// # Errors
    /// [`StoreError`] if Postgres cannot be reached, if our role lacks a right, or if an applied
    /// migration differs from the one of this version.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let progress = Progress::default();
        let migrating = async {
            let mut connection = match self.connections.acquire_first(REACHING).await {
                Ok(connection) => connection,
                // An application's pool does not report the reason. A connection outside of it
                // does.
                Err(error) if !self.connections.is_own() => {
                    return Err(self.connections.connect().await.err().unwrap_or(error));
                }
                Err(error) => return Err(error),
            };
            progress.reading();
            match self.migrate_over(&mut connection).await {
                Ok(()) => {
                    connection.release();
                    Ok(())
                }
                Err(failure) => Err(self.why(failure, &progress)),
            }
        };
        within(MIGRATING, &progress, migrating).await
    }

    /// Returns what [`migrate`](Self::migrate) would do. It changes nothing.
    ///
    /// # Errors
    /// [`StoreError`] if Postgres cannot be reached, or if an applied migration differs from the
    /// one of this version.
    pub async fn migration_plan(&self) -> Result<MigrationPlan, StoreError> {
        let progress = Progress::default();
        let planning = async {
            let mut connection = self.connections.connect().await?;
            progress.reading();
            let planned = self.plan_over(&mut connection).await;
            planned.map_err(|failure| self.why(failure, &progress))
        };
        within(REACHING * 2, &progress, planning).await
    }

    async fn plan_over(
        &self,
        connection: &mut PgConnection,
    ) -> Result<MigrationPlan, MigrationFailure> {
        let mut transaction = connection.begin().await?;
        let (schema_exists, table_exists): (bool, bool) = sqlx::query_as(
            "SELECT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = $1), \
             EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = 'session_layer_migrations')",
        )
        .bind(self.schema.as_str().to_owned())
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
        let pending = if table_exists {
            self.pending(&mut transaction).await?
        } else {
            MIGRATIONS.iter().collect()
        };
        if schema_exists && !pending.is_empty() {
            self.refuse_an_open_schema(&mut transaction).await?;
        }
        transaction.rollback().await?;
        let quoted = self.schema.quoted();
        let planned = |migration: &Migration| PlannedMigration {
            version: migration.version,
            name: migration.name,
            sql: migration.applied_sql(&quoted),
        };
        Ok(MigrationPlan {
            schema: self.schema.as_str().to_owned(),
            missing: pending.into_iter().map(planned).collect(),
            creates_schema: !schema_exists,
        })
    }

    async fn migrate_over(&self, connection: &mut PgConnection) -> Result<(), MigrationFailure> {
        // If all migrations are applied, this SELECT is all. The transaction is for poolers.
        let mut look = connection.begin().await?;
        match self.pending(&mut look).await {
            Ok(pending) if pending.is_empty() => {
                look.commit().await?;
                return Ok(());
            }
            Ok(_) => {}
            Err(MigrationFailure::Statement(error)) if errors::is_missing_table(&error) => {}
            Err(failure) => return Err(failure),
        }
        look.rollback().await?;

        let mut transaction =
            connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        self.prepare(&mut transaction).await?;
        for migration in self.pending(&mut transaction).await? {
            self.apply(&mut transaction, migration).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Takes the lock, and creates the schema and the bookkeeping if they are missing.
    async fn prepare(&self, transaction: &mut PgConnection) -> Result<(), MigrationFailure> {
        let schema = self.schema.as_str();
        let quoted = self.schema.quoted();
        sqlx::query(
            "SELECT set_config('statement_timeout', '0', true), \
             set_config('lock_timeout', '60s', true), \
             set_config('idle_in_transaction_session_timeout', '60s', true), \
             set_config('search_path', $1, true)",
        )
        // Our objects are named in full, and another role's must not replace those of Postgres.
        .bind("pg_catalog, pg_temp")
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
        self.refuse_an_open_schema(transaction).await?;
        sqlx::raw_sql(AssertSqlSafe(bookkeeping(&quoted))).execute(&mut *transaction).await?;
        Ok(())
    }

    /// Fails if another role may create objects in our schema. That role could replace one of our
    /// functions with its own, which would run with our rights. The schema's owner and superusers
    /// have all rights anyway.
    async fn refuse_an_open_schema(
        &self,
        transaction: &mut PgConnection,
    ) -> Result<(), MigrationFailure> {
        let others: Option<String> = sqlx::query_scalar(
            "SELECT string_agg(coalesce(quote_ident(r.rolname), 'PUBLIC'), ', ' ORDER BY \
             r.rolname) FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a \
             LEFT JOIN pg_roles r ON r.oid = a.grantee \
             WHERE n.nspname = $1 AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner \
               AND coalesce(r.rolname <> current_user AND NOT r.rolsuper, true)",
        )
        .bind(self.schema.as_str().to_owned())
        .persistent(false)
        .fetch_one(transaction)
        .await?;
        others.map_or(Ok(()), |others| Err(MigrationFailure::Open(others)))
    }

    /// Returns the migrations that are not applied yet. Unknown ones are of a newer version.
    async fn pending(
        &self,
        transaction: &mut PgConnection,
    ) -> Result<Vec<&'static Migration>, MigrationFailure> {
        let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT version, checksum FROM {}.session_layer_migrations",
            self.schema.quoted()
        )))
        .persistent(false)
        .fetch_all(transaction)
        .await?;
        let mut pending = Vec::new();
        for migration in &MIGRATIONS {
            match applied.iter().find(|(version, _)| *version == migration.version) {
                None => pending.push(migration),
                Some((_, checksum)) if *checksum == migration.checksum() => {}
                Some(_) => return Err(MigrationFailure::Differs(migration.version)),
            }
        }
        Ok(pending)
    }

    async fn apply(
        &self,
        transaction: &mut PgConnection,
        migration: &Migration,
    ) -> Result<(), sqlx::Error> {
        let quoted = self.schema.quoted();
        sqlx::raw_sql(AssertSqlSafe(migration.sql.replace("@schema@", &quoted)))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO {quoted}.session_layer_migrations (version, name, checksum) VALUES ($1, \
             $2, $3)"
        )))
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

    fn why(&self, failure: MigrationFailure, progress: &Progress) -> StoreError {
        match failure {
            MigrationFailure::Statement(error) if errors::is_denied_right(&error) => {
                StoreError::new(
                    StoreErrorKind::Denied,
                    format!(
                        "our role may not create the tables in the schema {0}. As a superuser, run \
                     CREATE SCHEMA {0} AUTHORIZATION our_role; or migrate as a role that owns the \
                     schema, and grant this one its rights: {1}",
                        self.schema,
                        super::schema::grants(self.schema.as_str(), "our_role"),
                    ),
                )
                .with_source(error)
            }
            MigrationFailure::Statement(error) => errors::of_statement(error, progress),
            MigrationFailure::Open(others) => StoreError::new(
                StoreErrorKind::Denied,
                format!(
                    "{others} may create objects in the schema {0}, and could act with our rights: \
                     REVOKE CREATE ON SCHEMA {0} FROM {others}; or use a schema of its own \
                     (SESSION_DB_SCHEMA)",
                    self.schema
                ),
            ),
            MigrationFailure::Differs(version) => StoreError::new(
                StoreErrorKind::Schema,
                format!(
                    "migration {version} in the schema {} differs from the one of this version, \
                     because another build created the tables: use a schema of its own \
                     (SESSION_DB_SCHEMA), or run uninstall.sql",
                    self.schema
                ),
            ),
        }
    }
}
