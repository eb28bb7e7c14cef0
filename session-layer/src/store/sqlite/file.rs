//! Exclusive opening of the file, and its tables.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqlStr, SqliteConnection};

use super::connection::{SharedConnection, failed};
use crate::model::error::{StoreError, StoreErrorKind as Kind};

/// The table that lists the applied migrations.
const BOOKKEEPING: &str = "session_layer_migrations";
/// How long another process, such as one being replaced, may take to release the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the migrations. Once released, later ones only add.
fn migrations() -> [Migration; 1] {
    let sql = SqlStr::from_static(include_str!("../../../migrations/sqlite/0001_sessions.sql"));
    [Migration::new(1, "sessions".into(), MigrationType::Simple, sql, false)]
}

pub(super) async fn open(path: &Path) -> Result<SharedConnection, StoreError> {
    let mut connection = connect(path).await.map_err(|error| explain(error, path))?;
    migrate(&mut connection).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            explain(error, path)
        }
        other => StoreError::new(
            Kind::Schema,
            format!(
                "another build created the tables in {}: use a file of its own",
                path.display()
            ),
        )
        .with_source(other),
    })?;
    SharedConnection::new(connection).await.map_err(|error| failed(error, false))
}

async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = if path == Path::new(":memory:") {
        SqliteConnectOptions::new().in_memory(true)
    } else {
        SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A revocation that was acknowledged must survive a power failure.
            .synchronous(SqliteSynchronous::Full)
    };
    let mut connection = options
        .locking_mode(SqliteLockingMode::Exclusive)
        .busy_timeout(LOCK_TIMEOUT)
        .disable_statement_logging()
        .connect()
        .await?;
    // In exclusive mode the first lock is kept until the connection closes. This takes it.
    sqlx::raw_sql("BEGIN EXCLUSIVE; COMMIT").execute(&mut connection).await?;
    Ok(connection)
}

/// Applies missing migrations. Unknown applied ones belong to a newer version, and remain.
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
                "another process has {path} open, and SQLite is for one process: stop that one, \
                 use another file, or set DATABASE_URL to a Postgres"
            ),
        ),
        Ok(8) => (Kind::Denied, format!("{path} is read-only: permit writing to it")),
        Ok(14) => (
            Kind::Unreachable,
            format!("{path} cannot be opened: check that its folder exists and is writable"),
        ),
        Ok(26) => (Kind::Schema, format!("{path} is no SQLite file: use another path")),
        _ => (Kind::Other, format!("SQLite cannot open {path}: see the error's source")),
    };
    StoreError::new(kind, message).with_source(error)
}
