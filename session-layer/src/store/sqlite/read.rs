//! Reads.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use super::record::{Record, digest};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::session::ListedSession;
use crate::store::{JournalPosition, JournalRead, JournalRow, Loaded, Row, Target};
use crate::token::TokenDigest;

impl SqliteStore {
    pub(super) async fn load_all(&self, digests: Vec<TokenDigest>) -> Result<Loaded, StoreError> {
        let store_id = self.turns.store_id();
        self.turns
            .read(move |turn| {
                Box::pin(async move {
                    let mut rows = Vec::with_capacity(digests.len());
                    for digest in digests {
                        let found =
                            Record::counting(&mut *turn.connection, digest, turn.now).await?;
                        rows.push(match found {
                            Some(record) if record.is_revoked() => Row::Revoked,
                            Some(record) if record.is_alive(turn.now) => Row::Alive {
                                previous_until: record
                                    .previous_until
                                    .filter(|_| record.token != digest),
                                session: record.session,
                            },
                            _ => Row::Absent,
                        });
                    }
                    Ok(Loaded {
                        now: turn.now,
                        store_id,
                        xmin: 0,
                        rows,
                    })
                })
            })
            .await
    }

    pub(super) async fn list_of(&self, user_id: String) -> Result<Vec<ListedSession>, StoreError> {
        self.turns
            .read(move |turn| {
                Box::pin(async move {
                    let mut found = Record::by_user(turn.connection, user_id).await?;
                    found.retain(|record| record.is_alive(turn.now));
                    Ok(found.into_iter().map(Record::listed).collect())
                })
            })
            .await
    }

    pub(super) async fn digests_of(&self, target: Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.turns
            .read(move |turn| {
                Box::pin(async move {
                    let found = Record::of_target(turn.connection, &target, turn.now).await?;
                    Ok(found.iter().flat_map(Record::digests).collect())
                })
            })
            .await
    }

    /// Transactions take turns here, so an entry's number stands for its transaction.
    pub(super) async fn read_journal(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let from = position.map_or(0, |position| position.xid);
        self.turns
            .read(move |turn| {
                Box::pin(async move {
                    let found =
                        sqlx::query("SELECT * FROM session_journal WHERE id >= $1 ORDER BY id")
                            .bind(from.cast_signed())
                            .fetch_all(turn.connection)
                            .await?;
                    let rows: Vec<JournalRow> =
                        found.iter().map(journal_row).collect::<Result<_, _>>()?;
                    let next = rows.last().map_or(from, |last| last.xid + 1);
                    Ok(JournalRead {
                        rows,
                        next: JournalPosition {
                            system: 0,
                            life: 0,
                            xid: next,
                        },
                        floor: 0,
                        now: turn.now,
                    })
                })
            })
            .await
    }
}

fn journal_row(row: &SqliteRow) -> Result<JournalRow, sqlx::Error> {
    let mut digests = Vec::new();
    for column in ["digest", "previous_digest"] {
        if let Some(bytes) = row.try_get::<Option<Vec<u8>>, _>(column)? {
            digests.push(digest(&bytes)?);
        }
    }
    let id: Option<String> = row.try_get("session_id")?;
    let kind: String = row.try_get("kind")?;
    Ok(JournalRow {
        xid: row.try_get::<i64, _>("id")?.cast_unsigned(),
        at: Timestamp::from_micros(row.try_get("at")?),
        session_id: id
            .map(|id| id.parse())
            .transpose()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        digests,
        least_version: if kind == "updated" {
            row.try_get("version")?
        } else {
            None
        },
    })
}
