//! The sessions of a run, and direct SQL statements on them, as an operator writes them.

use std::ops::Range;

use session_layer::TokenDigest;
use session_testkit::backends::Backends;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::Error;

/// The purpose of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SQL changes its row. No node has an entry of it.
    Changed,
    /// SQL ends it while nodes serve entries of it.
    Ended,
    /// It stays valid. Nodes validate it continuously.
    Kept,
    /// One of the many sessions of the user [`CROWD`].
    Crowd,
}

/// The user with many sessions.
pub(crate) const CROWD: &str = "crowd";

/// The digest of the token of the session number `n`, in SQL. `$1` is [`prefix`]. SQL can therefore
/// create a million sessions, and a node can still validate each.
const DIGEST: &str = "sha256(convert_to(left(encode(sha256(convert_to($1::text || n, 'UTF8')), \
                      'hex'), 42) || '0', 'UTF8'))";

/// Returns the text before the number in the names of a kind's sessions.
fn prefix(seed: u64, kind: Kind) -> String {
    format!("{seed} {kind:?} ")
}

/// Returns the token of a session: 43 characters that are base64url, as session-layer's own tokens.
pub(crate) fn token(seed: u64, kind: Kind, n: u64) -> String {
    let name = TokenDigest::of(&format!("{}{n}", prefix(seed, kind)));
    let hex: String = name.as_bytes()[..21].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}0")
}

#[derive(Debug)]
pub(crate) struct Postgres {
    connection: PgConnection,
    /// Needs no quoting.
    schema: String,
    seed: u64,
}

impl Postgres {
    pub(crate) async fn connect(
        backends: &Backends,
        schema: &str,
        seed: u64,
    ) -> Result<Self, Error> {
        let connection = backends.postgres().connect().await?;
        Ok(Self { connection, schema: schema.to_owned(), seed })
    }

    /// Creates sessions of a kind, numbered from 0.
    pub(crate) async fn create(&mut self, kind: Kind, count: u64) -> Result<(), Error> {
        let (schema, user) = match kind {
            Kind::Crowd => (&self.schema, format!("'{CROWD}'")),
            _ => (&self.schema, "'user ' || $1::text || n".to_owned()),
        };
        let insert = format!(
            "INSERT INTO {schema}.sessions (id, token_digest, user_id, expires_at) \
             SELECT gen_random_uuid(), {DIGEST}, {user}, now() + interval '1 day' \
             FROM generate_series(0, $2::bigint - 1) n"
        );
        // Without statistics, Postgres would plan for an empty table.
        let analyze = format!("ANALYZE {schema}.sessions");
        sqlx::query(AssertSqlSafe(insert))
            .bind(prefix(self.seed, kind))
            .bind(i64::try_from(count)?)
            .execute(&mut self.connection)
            .await?;
        self.run(&analyze).await
    }

    /// Ends a session in its own transaction.
    pub(crate) async fn end(&mut self, n: u64) -> Result<(), Error> {
        let change = "revoked_at = now()";
        let ended = self.update(change, Kind::Ended, n..n + 1).await?;
        if ended != 1 {
            return Err(format!("could not end session {n}: there is no such session").into());
        }
        Ok(())
    }

    /// Changes sessions in one statement. Returns their number.
    pub(crate) async fn change(&mut self, rows: Range<u64>, label: &str) -> Result<u64, Error> {
        self.update(&format!("label = '{label}'"), Kind::Changed, rows).await
    }

    async fn update(&mut self, set: &str, kind: Kind, rows: Range<u64>) -> Result<u64, Error> {
        let schema = &self.schema;
        let update = format!(
            "UPDATE {schema}.sessions SET {set} WHERE token_digest IN \
             (SELECT {DIGEST} FROM generate_series($2::bigint, $3::bigint - 1) n)"
        );
        let updated = sqlx::query(AssertSqlSafe(update))
            .bind(prefix(self.seed, kind))
            .bind(i64::try_from(rows.start)?)
            .bind(i64::try_from(rows.end)?)
            .execute(&mut self.connection)
            .await?;
        Ok(updated.rows_affected())
    }

    /// Executes a statement such as `BEGIN`.
    pub(crate) async fn run(&mut self, statement: &str) -> Result<(), Error> {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Returns the number of rows in the journal.
    pub(crate) async fn journal_rows(&mut self) -> Result<u64, Error> {
        self.count(format!("{}.session_journal", self.schema)).await
    }

    /// Returns whether a row of the crowd's sessions is not yet marked as ended.
    pub(crate) async fn is_crowd_left(&mut self) -> Result<bool, Error> {
        let schema = &self.schema;
        let left = format!(
            "(SELECT FROM {schema}.sessions WHERE user_id = '{CROWD}' AND revoked_at IS NULL \
             LIMIT 1) s"
        );
        Ok(self.count(left).await? > 0)
    }

    async fn count(&mut self, from: String) -> Result<u64, Error> {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {from}"));
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut self.connection).await?;
        Ok(count.unsigned_abs())
    }
}

/// Returns the server's settings that affect the time of a COMMIT or a CHECKPOINT.
pub(crate) async fn settings(backends: &Backends) -> Result<String, Error> {
    let mut connection = backends.postgres().connect().await?;
    let settings = "SELECT string_agg(name || ' ' || current_setting(name), ', ' ORDER BY name) \
         FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', \
         'max_wal_size')";
    let settings = sqlx::query_scalar(settings).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use session_layer::{OpaqueTokens, TokenScheme as _};

    use super::*;

    #[test]
    fn token_is_accepted_by_session_layer_and_unique() {
        let mut tokens: Vec<_> = (0..100).map(|n| token(7, Kind::Ended, n)).collect();
        tokens.extend([token(71, Kind::Ended, 1), token(7, Kind::Kept, 1)]);
        assert!(tokens.iter().all(|token| OpaqueTokens.digest(token).is_ok()));
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 102);
    }
}
