//! The reads of validations, lists, digests and the journal.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use super::record::{self, Record, digest};
use crate::model::error::StoreError;
use crate::model::session::{ListCursor, SessionPage, SessionSummary};
use crate::model::token::TokenDigest;
use crate::store::{
    JournalChange, JournalPosition, JournalRead, JournalRow, ReadResult, Row, Target, UnreadableRow,
};

impl SqliteStore {
    pub(super) async fn load_all(
        &self,
        digests: Vec<TokenDigest>,
    ) -> Result<ReadResult, StoreError> {
        let store_id = self.connection.store_id();
        self.connection
            .read(move |turn| {
                Box::pin(async move {
                    let mut rows = Vec::with_capacity(digests.len());
                    for digest in digests {
                        let found =
                            Record::by_any_token(&mut *turn.connection, digest, turn.now).await;
                        rows.push(match found {
                            Ok(Some(record)) if record.is_revoked() => Row::Revoked,
                            Ok(Some(record)) if record.is_active(turn.now) => row(record, digest),
                            Ok(_) => Row::Absent,
                            Err(error) if record::is_of_a_row(&error) => {
                                Row::Unreadable(UnreadableRow::new(None, error.to_string()))
                            }
                            Err(error) => return Err(error),
                        });
                    }
                    Ok(ReadResult { now: turn.now, store_id, xmin: 0, rows })
                })
            })
            .await
    }

    /// Reads a page of a user's list, and one session more, to know whether another page follows.
    pub(super) async fn list_of(
        &self,
        user_id: String,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        let (before, id) = match after {
            Some(cursor) => (cursor.created_at().as_micros(), cursor.id().to_string()),
            // This is greater than any id.
            None => (i64::MAX, "g".to_owned()),
        };
        let most = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        self.connection
            .read(move |turn| {
                Box::pin(async move {
                    let found = sqlx::query(LIST)
                        .bind(user_id)
                        .bind(turn.now.as_micros())
                        .bind(before)
                        .bind(id)
                        .bind(most)
                        .fetch_all(turn.connection)
                        .await?;
                    let listed = found.iter().map(|row| listed(row).ok()).collect();
                    Ok(SessionPage::of_rows(listed, limit))
                })
            })
            .await
    }

    pub(super) async fn digests_of(&self, target: Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.connection
            .read(move |turn| {
                Box::pin(async move {
                    let found = Record::of_target(turn.connection, &target, turn.now).await?;
                    Ok(found.iter().flat_map(Record::digests).collect())
                })
            })
            .await
    }

    /// Reads the journal. Transactions are serialized, so a row's number identifies its own.
    pub(super) async fn read_journal(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let store_id = self.connection.store_id();
        let from: i64 = position
            .filter(|position| position.store_id == store_id)
            .and_then(|position| position.seen.parse().ok())
            .unwrap_or(0);
        self.connection
            .read(move |turn| {
                Box::pin(async move {
                    let found =
                        sqlx::query("SELECT * FROM session_journal WHERE id >= $1 ORDER BY id")
                            .bind(from)
                            .fetch_all(turn.connection)
                            .await?;
                    let rows: Vec<JournalRow> =
                        found.iter().map(journal_row).collect::<Result<_, _>>()?;
                    let last = found.last().map(|last| last.try_get::<i64, _>("id"));
                    let next = last.transpose()?.map_or(from, |last| last + 1);
                    Ok(JournalRead {
                        store_id,
                        rows,
                        next: JournalPosition {
                            store_id,
                            seen: next.to_string().into(),
                            page: None,
                        },
                        floor: 0,
                        now: turn.now,
                    })
                })
            })
            .await
    }
}

fn row(record: Record, digest: TokenDigest) -> Row {
    match record.session {
        Ok(session) => Row::Alive {
            session,
            user_epoch: record.user_epoch,
            previous_until: record.previous_until.filter(|_| record.token != digest),
        },
        Err(error) => Row::Unreadable(UnreadableRow::new(Some(record.id), error.to_string())),
    }
}

/// The statement that reads a list. $1 user, $2 now, $3 and $4 the place after which the page
/// begins, $5 the limit.
const LIST: &str = "SELECT s.id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at, \
     s.idle_timeout_s, s.persistent, s.label, s.ip, s.user_agent \
     FROM sessions s \
     WHERE s.user_id = $1 AND (s.created_at, s.id) < ($3, $4) \
       AND s.revoked_at IS NULL AND s.expires_at > $2 \
       AND (s.idle_timeout_s IS NULL OR s.last_seen_at > $2 - s.idle_timeout_s * 1000000) \
       AND s.user_epoch >= coalesce((SELECT epoch FROM session_users WHERE user_id = $1), 0) \
     ORDER BY s.created_at DESC, s.id DESC LIMIT $5";

fn listed(row: &SqliteRow) -> Result<SessionSummary, sqlx::Error> {
    let ip: Option<String> = row.try_get("ip")?;
    Ok(SessionSummary {
        id: record::id(row)?,
        created_at: record::timestamp(row, "created_at")?,
        authenticated_at: record::timestamp(row, "authenticated_at")?,
        last_seen_at: record::timestamp(row, "last_seen_at")?,
        expires_at: record::timestamp(row, "expires_at")?,
        idle_timeout: record::idle_timeout(row)?,
        persistent: row.try_get("persistent")?,
        label: row.try_get("label")?,
        // An operator may have written another text. The address is only shown.
        ip: ip.and_then(|ip| ip.parse().ok()),
        user_agent: row.try_get("user_agent")?,
    })
}

/// Decodes a journal row. A row with missing values ends the session, or all sessions.
fn journal_row(row: &SqliteRow) -> Result<JournalRow, sqlx::Error> {
    let text = |column| row.try_get::<Option<String>, _>(column).unwrap_or_default();
    let id = text("session_id").and_then(|id| id.parse().ok());
    let is_update = text("kind").is_some_and(|kind| kind == "updated");
    let version: Option<i64> = row.try_get("version").unwrap_or_default();
    let digest = |column| {
        let bytes: Option<Vec<u8>> = row.try_get(column).unwrap_or_default();
        digest(&bytes?).ok()
    };
    let digests = ["digest", "previous_digest"].into_iter();
    Ok(JournalRow {
        xid: row.try_get::<i64, _>("id")?.cast_unsigned(),
        change: id.map_or(JournalChange::All, |id| JournalChange::Session {
            id,
            digests: digests.filter_map(digest).collect(),
            least_version: version.filter(|_| is_update),
        }),
    })
}
