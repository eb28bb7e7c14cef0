//! Removal of old journal rows and of sessions that ended long ago.

use std::time::Duration;

use super::SqliteStore;
use crate::model::clock::Timestamp;
use crate::model::error::StoreError;

/// Returns the moment this long before `now`, in microseconds.
fn before(now: Timestamp, span: Duration) -> i64 {
    let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    now.as_micros().saturating_sub(span)
}

impl SqliteStore {
    pub(super) async fn purge(&self, keep: Duration) -> Result<u64, StoreError> {
        self.connection
            .change(move |turn| {
                Box::pin(async move {
                    let purged = sqlx::query("DELETE FROM session_journal WHERE at < $1")
                        .bind(before(turn.now, keep))
                        .execute(turn.connection)
                        .await?;
                    Ok(purged.rows_affected())
                })
            })
            .await
    }

    pub(super) async fn sweep_ended(
        &self,
        retention: Duration,
        most: u32,
    ) -> Result<u64, StoreError> {
        self.connection
            .change(move |turn| {
                Box::pin(async move {
                    let swept = sqlx::query(
                        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions \
                         WHERE expires_at < $1 OR revoked_at < $1 LIMIT $2)",
                    )
                    .bind(before(turn.now, retention))
                    .bind(most)
                    .execute(turn.connection)
                    .await?;
                    Ok(swept.rows_affected())
                })
            })
            .await
    }

    pub(super) async fn erase_ended(&self, user_id: String, most: u32) -> Result<u64, StoreError> {
        self.connection
            .change(move |turn| {
                Box::pin(async move {
                    let erased = sqlx::query(
                        "DELETE FROM sessions WHERE id IN (SELECT s.id FROM sessions s \
                         WHERE s.user_id = $1 AND (s.revoked_at IS NOT NULL OR s.expires_at <= $2 \
                           OR s.user_epoch < (SELECT u.epoch FROM session_users u \
                             WHERE u.user_id = $1)) LIMIT $3)",
                    )
                    .bind(user_id)
                    .bind(turn.now.as_micros())
                    .bind(most)
                    .execute(turn.connection)
                    .await?;
                    Ok(erased.rows_affected())
                })
            })
            .await
    }
}
