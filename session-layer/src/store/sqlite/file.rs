//! Opening the file for ourselves alone, and its tables.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqlStr, SqliteConnection};

use super::turns::{Turns, failed};
use crate::error::{StoreError, StoreErrorKind as Kind};

/// Beside the tables it is about.
const BOOKKEEPING: &str = "session_layer_migrations";
/// How long another process may take to let go of the file (one that is just being replaced).
const PATIENCE: Duration = Duration::from_secs(1);

/// Oldest first. They only ever add.
fn migrations() -> [Migration; 2] {
    let migration = |version, name: &'static str, sql| {
        let sql = SqlStr::from_static(sql);
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    };
    [
        migration(
            1,
            "sessions",
            include_str!("../../../migrations/sqlite/0001_sessions.sql"),
        ),
        migration(
            2,
            "persistent",
            include_str!("../../../migrations/sqlite/0002_persistent.sql"),
        ),
    ]
}

pub(super) async fn open(path: &Path) -> Result<Turns, StoreError> {
    let mut connection = connect(path).await.map_err(|error| explain(error, path))?;
    migrate(&mut connection)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                explain(error, path)
            }
            other => StoreError::new(
                Kind::Schema,
                format!(
                    "the tables in {} were made by another build: use a file of its own",
                    path.display()
                ),
            )
            .with_source(other),
        })?;
    Turns::new(connection)
        .await
        .map_err(|error| failed(error, false))
}

async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = if path == Path::new(":memory:") {
        SqliteConnectOptions::new().in_memory(true)
    } else {
        SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A revocation that was answered must outlive a power cut.
            .synchronous(SqliteSynchronous::Full)
    };
    let mut connection = options
        .locking_mode(SqliteLockingMode::Exclusive)
        .busy_timeout(PATIENCE)
        .disable_statement_logging()
        .connect()
        .await?;
    // In exclusive mode the first lock is kept until the connection closes: take it now.
    sqlx::raw_sql("BEGIN EXCLUSIVE; COMMIT")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// Those applied that we do not know are a newer version's, and left alone.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), MigrateError> {
    connection.ensure_migrations_table(BOOKKEEPING).await?;
    let applied = connection.list_applied_migrations(BOOKKEEPING).await?;
    for migration in migrations() {
        match applied.iter().find(|a| a.version == migration.version) {
            None => {
                connection.apply(BOOKKEEPING, &migration).await?;
            }
            Some(applied) if applied.checksum == migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version)),
        }
    }
    Ok(())
}

fn explain(error: sqlx::Error, path: &Path) -> StoreError {
    let path = path.display();
    let code = match &error {
        sqlx::Error::Database(database) => database.code().unwrap_or_default().into_owned(),
        _ => String::new(),
    };
    // The primary code is the lowest byte of the extended one.
    let (kind, message) = match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(5 | 6) => (
            Kind::Unreachable,
            format!(
                "another process has {path} open, and SQLite is for one process: stop that one, use another file, or \
                 set DATABASE_URL to a Postgres"
            ),
        ),
        Ok(8) => (Kind::Denied, format!("{path} may not be written")),
        Ok(14) => (
            Kind::Unreachable,
            format!("{path} cannot be opened: is its folder there, and may we write to it?"),
        ),
        Ok(26) => (Kind::Schema, format!("{path} is no SQLite file")),
        _ => (Kind::Other, format!("SQLite cannot use {path}")),
    };
    StoreError::new(kind, message).with_source(error)
}
