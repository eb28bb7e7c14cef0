//! What comes back: the facts beside every answer, and sessions.

use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{Row as _, types::Uuid};

use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::session::{Session, SessionId, SessionParts};
use crate::store::StoreId;
use crate::token::TokenDigest;

/// What decides whether an answer is the truth.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    pub(super) store_id: StoreId,
    pub(super) xmin: u64,
    journal_floor: u64,
    /// On which system the floor was raised.
    floor_system: Option<i64>,
    sessions_hidden: bool,
    users_hidden: bool,
    journal_hidden: bool,
    role: String,
    schema: String,
}

impl Facts {
    /// From the first row of any answer of ours; an error where the server is no primary.
    pub(super) fn of(rows: &[PgRow]) -> Result<Self, StoreError> {
        let row = rows.first().ok_or_else(no_store_row)?;
        Self::read(row).map_err(unexpected)?.ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::NotAuthoritative,
                "this Postgres server is a replica in recovery, and may be behind: \
                 point DATABASE_URL at the primary",
            )
        })
    }

    fn read(row: &PgRow) -> Result<Option<Self>, sqlx::Error> {
        if row.try_get("in_recovery")? {
            return Ok(None);
        }
        Ok(Some(Self {
            now: Timestamp::from_micros(row.try_get("now")?),
            store_id: row.try_get::<Uuid, _>("store_id")?.into_bytes(),
            xmin: transaction(row, "xmin")?,
            journal_floor: transaction(row, "journal_floor")?,
            floor_system: row.try_get("floor_system")?,
            sessions_hidden: row.try_get("sessions_hidden")?,
            users_hidden: row.try_get("users_hidden")?,
            journal_hidden: row.try_get("journal_hidden")?,
            role: row.try_get("role")?,
            schema: row.try_get("schema")?,
        }))
    }

    /// A session is not there: is that the truth, or is it hidden from us?
    pub(super) fn no_session(&self) -> Result<(), StoreError> {
        self.shown(!self.sessions_hidden, "sessions")
    }

    /// A user has no epoch: is that the truth, or is it hidden from us?
    pub(super) fn no_user(&self) -> Result<(), StoreError> {
        self.shown(!self.users_hidden, "session_users")
    }

    /// Nothing before this transaction is in the journal of this system any more. A floor that came here
    /// with a dump says nothing of it.
    pub(super) fn journal_floor(&self, system: u64) -> u64 {
        if self.floor_system.map(i64::cast_unsigned) == Some(system) {
            self.journal_floor
        } else {
            0
        }
    }

    /// The journal may be hidden from us, in part or whole.
    pub(super) fn whole_journal(&self) -> Result<(), StoreError> {
        self.shown(!self.journal_hidden, "session_journal")
    }

    /// The session in `row` was compared with its user's epoch, which must not be hidden.
    pub(super) fn compared(&self, row: &PgRow) -> Result<(), StoreError> {
        match row.try_get::<Option<i64>, _>("epoch").map_err(unexpected)? {
            Some(_) => Ok(()),
            None => self.no_user(),
        }
    }

    fn shown(&self, all: bool, table: &str) -> Result<(), StoreError> {
        if all {
            Ok(())
        } else {
            Err(hidden(&self.role, &self.schema, table))
        }
    }
}

/// Row-level security stands between us and the truth. What it says can be pasted into psql.
pub(super) fn hidden(role: &str, schema: &str, table: &str) -> StoreError {
    let table = format!("{}.{}", quoted(schema), quoted(table));
    StoreError::new(
        StoreErrorKind::NotAuthoritative,
        format!(
            "row-level security may hide rows of {table} from the role {role}, so a missing row proves nothing: \
             ALTER ROLE {} BYPASSRLS; or ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;",
            quoted(role)
        ),
    )
}

/// As an identifier in SQL, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn no_store_row() -> StoreError {
    StoreError::new(
        StoreErrorKind::NotAuthoritative,
        "session_store shows no row: the migrations write one; row-level security may hide it, \
         or it was deleted",
    )
}

/// Postgres answered something that our statements never return.
pub(super) fn unexpected(error: sqlx::Error) -> StoreError {
    StoreError::new(
        StoreErrorKind::Schema,
        "Postgres answered something else than was asked: are its tables the ones our migrations made? is a pooler in \
         transaction mode in between (SESSION_DB_POOLED=true, PostgresStoreBuilder::pooled(true))?",
    )
    .with_source(error)
}

pub(super) fn transaction(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(column)?.cast_unsigned())
}

pub(super) fn digest(row: &PgRow, column: &str) -> Result<Option<TokenDigest>, sqlx::Error> {
    let Some(bytes) = row.try_get::<Option<&[u8]>, _>(column)? else {
        return Ok(None);
    };
    digest_of(bytes).map(Some)
}

fn digest_of(bytes: &[u8]) -> Result<TokenDigest, sqlx::Error> {
    let bytes = bytes
        .try_into()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(TokenDigest::from_bytes(bytes))
}

/// Adds the digests in these columns.
pub(super) fn gather(
    digests: &mut Vec<TokenDigest>,
    row: &PgRow,
    columns: &[&str],
) -> Result<(), sqlx::Error> {
    for column in columns {
        if column.ends_with(FORMER) {
            let former: Option<Vec<Vec<u8>>> = row.try_get(*column)?;
            for bytes in former.into_iter().flatten() {
                digests.push(digest_of(&bytes)?);
            }
        } else {
            digests.extend(digest(row, column)?);
        }
    }
    Ok(())
}

/// The columns of a session that say under which keys there may be copies of it.
pub(super) const DIGESTS: [&str; 3] = ["token_digest", "previous_digest", "former_digests"];
/// How columns with many of them are named.
const FORMER: &str = "former_digests";

/// Each once, in no order that means anything.
pub(super) fn each_once(mut digests: Vec<TokenDigest>) -> Vec<TokenDigest> {
    digests.sort_unstable();
    digests.dedup();
    digests
}

pub(super) fn session_id(row: &PgRow, column: &str) -> Result<Option<SessionId>, sqlx::Error> {
    Ok(row
        .try_get::<Option<Uuid>, _>(column)?
        .map(|id| SessionId::from_bytes(id.into_bytes())))
}

/// The session in this row, if there is one.
pub(super) fn session(row: &PgRow) -> Result<Option<Session>, sqlx::Error> {
    let Some(id) = session_id(row, "id")? else {
        return Ok(None);
    };
    let moment = |column| row.try_get(column).map(Timestamp::from_micros);
    let idle: Option<i32> = row.try_get("idle_timeout_s")?;
    let data = RawValue::from_string(row.try_get("data")?)
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Some(
        SessionParts {
            id,
            user_id: row.try_get("user_id")?,
            version: row.try_get("version")?,
            created_at: moment("created_at")?,
            authenticated_at: moment("authenticated_at")?,
            last_seen_at: moment("last_seen_at")?,
            expires_at: moment("expires_at")?,
            idle_timeout: idle
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
            persistent: row.try_get("persistent")?,
            data,
        }
        .into(),
    ))
}
