//! Direct SQL statements on sessions, as an operator writes them.

use std::ops::Range;

use session_testkit::backends::Backends;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    error::{Doing as _, Error},
    names::{Kind, Names, SQL_DIGEST, SQL_ID, Who},
};

/// The users of the sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Users {
    /// A separate user for each session.
    OneEach,
    /// One user for all: [`CROWD`].
    One,
}

/// The user with many sessions.
pub(crate) const CROWD: &str = "crowd";

#[derive(Debug)]
pub(crate) struct Postgres {
    connection: PgConnection,
    schema: String,
    names: Names,
}

impl Postgres {
    /// Wraps a connection. The schema's name needs no quoting.
    pub(crate) fn new(connection: PgConnection, schema: String, names: Names) -> Self {
        Self { connection, schema, names }
    }

    /// Creates sessions of a kind, numbered from 0.
    pub(crate) async fn create(
        &mut self,
        kind: Kind,
        count: u64,
        users: Users,
    ) -> Result<(), Error> {
        let creating = || format!("create {count} sessions");
        let prefix = self.names.prefix(kind);
        let user = match users {
            Users::OneEach => "'user ' || $1::text || n".to_owned(),
            Users::One => format!("'{CROWD}'"),
        };
        let schema = &self.schema;
        let insert = format!(
            "INSERT INTO {schema}.sessions (id, token_digest, user_id, expires_at) \
             SELECT {SQL_ID}, {SQL_DIGEST}, {user}, now() + interval '1 day' \
             FROM generate_series(0, $2::bigint - 1) n"
        );
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(prefix).bind(signed(count));
        insert.execute(&mut self.connection).await.doing(creating)?;
        let Some(last) = count.checked_sub(1) else {
            return Ok(());
        };
        let who = Who { kind, n: last };
        let (id, digest) = (self.names.id(who), self.names.digest(who));
        let found =
            format!("SELECT count(*) FROM {schema}.sessions WHERE id = $1 AND token_digest = $2");
        let found: i64 = sqlx::query_scalar(AssertSqlSafe(found))
            .bind(id)
            .bind(digest.as_bytes().as_slice())
            .fetch_one(&mut self.connection)
            .await
            .doing(creating)?;
        if found != 1 {
            return Err(Error::because(creating(), "SQL and Rust compute different names"));
        }
        // Without statistics, Postgres would plan for an empty table.
        self.execute(format!("ANALYZE {schema}.sessions"), creating).await
    }

    /// Ends a session in its own transaction.
    pub(crate) async fn end(&mut self, who: Who) -> Result<(), Error> {
        let ending = || format!("end the session {who:?}");
        let schema = &self.schema;
        let end = format!("UPDATE {schema}.sessions SET revoked_at = now() WHERE id = $1");
        let ended = sqlx::query(AssertSqlSafe(end))
            .bind(self.names.id(who))
            .execute(&mut self.connection)
            .await
            .doing(ending)?;
        if ended.rows_affected() != 1 {
            return Err(Error::because(ending(), "there is no such session"));
        }
        Ok(())
    }

    /// Changes some sessions by their ids. Returns their number.
    pub(crate) async fn change(&mut self, rows: Range<u64>) -> Result<u64, Error> {
        let ids: Vec<Uuid> = rows.map(|n| self.names.id(Who { kind: Kind::Changed, n })).collect();
        let schema = &self.schema;
        let change = format!("UPDATE {schema}.sessions SET label = 'changed' WHERE id = ANY($1)");
        let changed =
            sqlx::query(AssertSqlSafe(change)).bind(ids).execute(&mut self.connection).await;
        Ok(changed.doing(|| "change sessions")?.rows_affected())
    }

    /// Changes very many sessions in one statement. Returns their number.
    pub(crate) async fn change_many(
        &mut self,
        rows: Range<u64>,
        label: &str,
    ) -> Result<u64, Error> {
        let schema = &self.schema;
        let change = format!(
            "UPDATE {schema}.sessions SET label = $4 \
             WHERE id IN (SELECT {SQL_ID} FROM generate_series($2::bigint, $3::bigint - 1) n)"
        );
        let changed = sqlx::query(AssertSqlSafe(change))
            .bind(self.names.prefix(Kind::Changed))
            .bind(signed(rows.start))
            .bind(signed(rows.end))
            .bind(label)
            .execute(&mut self.connection)
            .await;
        let changing = || format!("change {} sessions", rows.end - rows.start);
        Ok(changed.doing(changing)?.rows_affected())
    }

    /// Executes a statement such as `BEGIN`.
    pub(crate) async fn run(&mut self, statement: &'static str) -> Result<(), Error> {
        self.execute(statement.to_owned(), || statement).await
    }

    async fn execute<W: Into<String>>(
        &mut self,
        statement: String,
        what: impl FnOnce() -> W,
    ) -> Result<(), Error> {
        let executed = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.connection).await;
        executed.doing(what).map(|_| ())
    }

    /// Returns the number of rows in the journal.
    pub(crate) async fn journal_rows(&mut self) -> Result<u64, Error> {
        let count = format!("SELECT count(*) FROM {}.session_journal", self.schema);
        self.count(count, "count the journal's rows").await
    }

    /// Returns whether a row of the crowd's sessions is not yet marked as ended.
    pub(crate) async fn is_crowd_left(&mut self) -> Result<bool, Error> {
        let schema = &self.schema;
        let left = format!(
            "SELECT count(*) FROM (SELECT FROM {schema}.sessions \
             WHERE user_id = '{CROWD}' AND revoked_at IS NULL LIMIT 1) s"
        );
        let left = self.count(left, "look for unmarked sessions").await?;
        Ok(left > 0)
    }

    async fn count(&mut self, statement: String, what: &'static str) -> Result<u64, Error> {
        let row = sqlx::query(AssertSqlSafe(statement)).fetch_one(&mut self.connection).await;
        let count: i64 = row.and_then(|row| row.try_get(0)).doing(|| what)?;
        Ok(count.unsigned_abs())
    }

    pub(crate) async fn close(self) -> Result<(), Error> {
        let closed = self.connection.close().await;
        closed.doing(|| "close a connection to Postgres")
    }
}

/// Returns the server's settings that affect the time of a COMMIT or a CHECKPOINT.
pub(crate) async fn settings(backends: &Backends) -> Result<String, Error> {
    let reading = || "read the settings of Postgres";
    let mut connection = backends.postgres().connect().await.doing(reading)?;
    let settings = "SELECT string_agg(name || ' ' || current_setting(name), ', ' ORDER BY name) \
         FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', \
         'max_wal_size')";
    let settings = sqlx::query_scalar(settings).fetch_one(&mut connection).await;
    let settings = settings.doing(reading)?;
    connection.close().await.doing(reading)?;
    Ok(settings)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
