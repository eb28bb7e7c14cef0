//! Decoding of replies: facts and sessions.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Row as _, types::Uuid};

use super::errors;
use crate::model::clock::Timestamp;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::{Session, SessionId, SessionParts};
use crate::model::token::TokenDigest;
use crate::store::{StoreId, parse_data};

/// The facts that decide whether a reply is authoritative.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    /// The life of the database, or `None` until one has begun.
    pub(super) life: Option<StoreId>,
    pub(super) xmin: u64,
    /// The floor: journal rows of lower transactions of this life may have been purged.
    pub(super) journal_floor: u64,
    sessions_hidden: bool,
    users_hidden: bool,
    journal_hidden: bool,
    role: String,
    schema: String,
}

impl Facts {
    /// Reads the facts from the first row of a reply. Returns an error if the server is no primary.
    pub(super) fn of(rows: &[PgRow]) -> Result<Self, StoreError> {
        let row = rows.first().ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
        Self::read(row).map_err(unexpected)?.ok_or_else(errors::in_recovery)
    }

    fn read(row: &PgRow) -> Result<Option<Self>, sqlx::Error> {
        if row.try_get("in_recovery")? {
            return Ok(None);
        }
        Ok(Some(Self {
            now: timestamp(row, "now")?,
            life: row.try_get::<Option<Uuid>, _>("life")?.map(Uuid::into_bytes),
            xmin: transaction(row, "xmin")?,
            journal_floor: row
                .try_get::<Option<i64>, _>("journal_floor")?
                .map_or(0, i64::cast_unsigned),
            sessions_hidden: row.try_get("sessions_hidden")?,
            users_hidden: row.try_get("users_hidden")?,
            journal_hidden: row.try_get("journal_hidden")?,
            role: row.try_get("role")?,
            schema: row.try_get("schema")?,
        }))
    }

    /// Returns an error if row-level security may hide sessions: a missing one proves nothing.
    pub(super) fn sessions_visible(&self) -> Result<(), StoreError> {
        self.visible(!self.sessions_hidden, "sessions")
    }

    /// Returns an error if row-level security may hide users: a missing epoch proves nothing.
    pub(super) fn users_visible(&self) -> Result<(), StoreError> {
        self.visible(!self.users_hidden, "session_users")
    }

    /// Returns the life of the database. Every read begins one if there is none.
    pub(super) fn store_id(&self) -> Result<StoreId, StoreError> {
        self.life.ok_or_else(|| unexpected(sqlx::Error::RowNotFound))
    }

    /// Returns an error if row-level security may hide rows of the journal.
    pub(super) fn journal_visible(&self) -> Result<(), StoreError> {
        self.visible(!self.journal_hidden, "session_journal")
    }

    /// Returns an error if the epoch with which the session in `row` was compared may be hidden.
    pub(super) fn epoch_visible(&self, row: &PgRow) -> Result<(), StoreError> {
        match row.try_get::<Option<i64>, _>("epoch").map_err(unexpected)? {
            Some(_) => Ok(()),
            None => self.users_visible(),
        }
    }

    fn visible(&self, all: bool, table: &str) -> Result<(), StoreError> {
        if all { Ok(()) } else { Err(hidden(&self.role, &self.schema, table)) }
    }
}

/// Returns the life of the database in this reply, if there is one.
pub(super) fn life(rows: &[PgRow]) -> Option<StoreId> {
    let life = rows.first()?.try_get::<Option<Uuid>, _>("life").ok()?;
    life.map(Uuid::into_bytes)
}

/// Returns whether this reply is of a replica.
pub(super) fn is_in_recovery(rows: &[PgRow]) -> bool {
    rows.first().is_some_and(|row| matches!(row.try_get("in_recovery"), Ok(true)))
}

/// Returns whether no life of this database has begun: the server has just started, or the tables
/// came with a copy.
pub(super) fn lacks_a_life(rows: &[PgRow]) -> bool {
    rows.first().is_some_and(|row| {
        matches!(row.try_get("in_recovery"), Ok(false))
            && matches!(row.try_get::<Option<Uuid>, _>("life"), Ok(None))
    })
}

/// Returns the error for rows that row-level security may hide. Its SQL can be pasted into psql.
pub(super) fn hidden(role: &str, schema: &str, table: &str) -> StoreError {
    let table = format!("{}.{}", quoted(schema), quoted(table));
    StoreError::new(
        StoreErrorKind::NotAuthoritative,
        format!(
            "row-level security may hide rows of {table} from the role {role}, so a missing row \
             proves nothing: ALTER ROLE {} BYPASSRLS; or ALTER TABLE {table} DISABLE ROW LEVEL \
             SECURITY;",
            quoted(role)
        ),
    )
}

/// Quotes any text as an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the error for a reply that our statements never cause.
pub(super) fn unexpected(error: sqlx::Error) -> StoreError {
    StoreError::new(
        StoreErrorKind::Schema,
        "the reply of Postgres does not fit the statement: check that our migrations made its \
         tables. With a pooler in transaction mode, set SESSION_DB_POOLED=true or \
         PostgresStoreBuilder::pooled(true)",
    )
    .with_source(error)
}

pub(super) fn transaction(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(column)?.cast_unsigned())
}

/// Adds the digests in these columns. A value of another length is no digest, and no entry has it
/// in its key.
pub(super) fn gather(
    digests: &mut Vec<TokenDigest>,
    row: &PgRow,
    columns: &[&str],
) -> Result<(), sqlx::Error> {
    for column in columns {
        if column.ends_with(FORMER) {
            let former: Option<Vec<Option<Vec<u8>>>> = row.try_get(*column)?;
            let former = former.into_iter().flatten().flatten();
            digests.extend(former.filter_map(|bytes| digest_of(&bytes)));
        } else {
            let digest: Option<&[u8]> = row.try_get(*column)?;
            digests.extend(digest.and_then(digest_of));
        }
    }
    Ok(())
}

fn digest_of(bytes: &[u8]) -> Option<TokenDigest> {
    bytes.try_into().ok().map(TokenDigest::from_bytes)
}

/// The columns with the digests under which there may be entries of a session.
pub(super) const DIGESTS: [&str; 3] = ["token_digest", "previous_digest", "former_digests"];
/// The suffix of columns with several digests.
const FORMER: &str = "former_digests";

/// Returns each digest once, in arbitrary order.
pub(super) fn each_once(mut digests: Vec<TokenDigest>) -> Vec<TokenDigest> {
    digests.sort_unstable();
    digests.dedup();
    digests
}

pub(super) fn session_id(row: &PgRow, column: &str) -> Result<Option<SessionId>, sqlx::Error> {
    Ok(row.try_get::<Option<Uuid>, _>(column)?.map(|id| SessionId::from_bytes(id.into_bytes())))
}

pub(super) fn timestamp(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    optional_timestamp(row, column)?.ok_or_else(|| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(sqlx::error::UnexpectedNullError),
    })
}

/// Reads a `timestamptz`. Postgres sends the microseconds since 2000. `infinity`, which an operator
/// may have written, is cut to the range of RFC 3339.
pub(super) fn optional_timestamp(
    row: &PgRow,
    column: &str,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let since_2000: Option<i64> = row.try_get_unchecked(column)?;
    Ok(since_2000.map(|micros| {
        Timestamp::from_micros(micros.saturating_add(YEAR_2000)).clamp(YEAR_ONE, YEAR_9999)
    }))
}

/// 2000-01-01T00:00:00Z in microseconds since 1970.
const YEAR_2000: i64 = 946_684_800_000_000;
/// 0001-01-01T00:00:00Z.
pub(super) const YEAR_ONE: Timestamp = Timestamp::from_micros(-62_135_596_800_000_000);
/// 9999-12-31T00:00:00Z.
const YEAR_9999: Timestamp = Timestamp::from_micros(253_402_214_400_000_000);

pub(super) fn idle_timeout(row: &PgRow) -> Result<Option<Duration>, sqlx::Error> {
    let seconds: Option<i32> = row.try_get("idle_timeout_s")?;
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Ok(seconds.map(Duration::from_secs))
}

/// Reads the session in this row, if there is one.
pub(super) fn session(row: &PgRow) -> Result<Option<Session>, sqlx::Error> {
    let Some(id) = session_id(row, "id")? else {
        return Ok(None);
    };
    let timestamp = |column| timestamp(row, column);
    Ok(Some(
        SessionParts {
            id,
            user_id: row.try_get("user_id")?,
            version: row.try_get("version")?,
            created_at: timestamp("created_at")?,
            authenticated_at: timestamp("authenticated_at")?,
            last_seen_at: timestamp("last_seen_at")?,
            expires_at: timestamp("expires_at")?,
            idle_timeout: idle_timeout(row)?,
            persistent: row.try_get("persistent")?,
            data: parse_data(row.try_get("data")?).map_err(sqlx::Error::Decode)?,
        }
        .into(),
    ))
}
