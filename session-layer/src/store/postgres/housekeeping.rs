//! What is old goes: rows of the journal, and sessions that ended long ago.

use std::time::Duration;

use sqlx::Row as _;

use super::PostgresStore;
use super::ask::{Statement, micros, statement};
use super::rows::{Facts, unexpected};
use crate::error::StoreError;

impl PostgresStore {
    pub(super) async fn purge(&self, keep: Duration) -> Result<u64, StoreError> {
        let purge = statement(&self.statements.purge_journal).bind(micros(keep));
        self.removed(purge).await
    }

    pub(super) async fn sweep_ended(
        &self,
        retention: Duration,
        most: u32,
    ) -> Result<u64, StoreError> {
        let sweep = statement(&self.statements.sweep)
            .bind(micros(retention))
            .bind(i32::try_from(most).unwrap_or(i32::MAX));
        self.removed(sweep).await
    }

    async fn removed(&self, housekeeping: Statement) -> Result<u64, StoreError> {
        let found = self.change_once(housekeeping).await?;
        // A replica removes nothing, and says so.
        Facts::of(&found)?;
        let removed: i64 = found[0].try_get("removed").map_err(unexpected)?;
        Ok(removed.unsigned_abs())
    }
}
