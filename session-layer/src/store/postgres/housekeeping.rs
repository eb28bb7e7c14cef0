//! Removal of old journal rows and of sessions that ended long ago, and the registrations of nodes.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::types::Uuid;

use super::PostgresStore;
use super::execute::{Statement, micros, statement};
use super::rows::{Facts, unexpected};
use crate::model::error::StoreError;
use crate::model::identity::CacheId;
use crate::store::{NodeRegistration, RegistrationId, StoreId, UserSweep};

impl PostgresStore {
    pub(super) async fn purge(&self, keep: Duration) -> Result<u64, StoreError> {
        let purge = || statement(&self.statements.purge_journal).bind(micros(keep));
        self.removed(purge).await
    }

    pub(super) async fn sweep_ended(
        &self,
        retention: Duration,
        most: u32,
    ) -> Result<u64, StoreError> {
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let sweep = || statement(&self.statements.sweep).bind(micros(retention)).bind(most);
        self.removed(sweep).await
    }

    pub(super) async fn erase_ended(&self, user_id: &str, most: u32) -> Result<u64, StoreError> {
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let erase =
            || statement(&self.statements.erase_sessions).bind(user_id.to_owned()).bind(most);
        self.removed(erase).await
    }

    pub(super) async fn sweep_idle_users(
        &self,
        retention: Duration,
        after: Option<&str>,
        most: u32,
    ) -> Result<UserSweep, StoreError> {
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let sweep = || {
            statement(&self.statements.sweep_users)
                .bind(micros(retention))
                .bind(after.map(str::to_owned))
                .bind(most)
        };
        let found = self.change_once(sweep).await?;
        Facts::of(&found)?;
        let removed: i64 = found[0].try_get("removed").map_err(unexpected)?;
        Ok(UserSweep {
            removed: removed.unsigned_abs(),
            last: found[0].try_get("last").map_err(unexpected)?,
        })
    }

    pub(super) async fn register(
        &self,
        node: &NodeRegistration,
    ) -> Result<Option<StoreId>, StoreError> {
        // The registration states its life, so one must have begun.
        self.begin_life().await?;
        let register = || {
            statement(&self.statements.register_node)
                .bind(Uuid::from_bytes(node.id))
                .bind(node.cache.as_bytes().to_vec())
                .bind(micros(node.lasts))
        };
        let found = self.write_anyway(register).await?;
        Facts::of(&found)?.store_id().map(Some)
    }

    pub(super) async fn forget(&self, id: RegistrationId) -> Result<(), StoreError> {
        let forget = || statement(&self.statements.forget_node).bind(Uuid::from_bytes(id));
        let found = self.change_once(forget).await?;
        Facts::of(&found).map(drop)
    }

    pub(super) async fn one_cache(&self, cache: &CacheId) -> Result<bool, StoreError> {
        let query = || statement(&self.statements.one_cache).bind(cache.as_bytes().to_vec());
        let found = self.read_for_change(query).await?;
        Facts::of(&found)?;
        found[0].try_get("one").map_err(unexpected)
    }

    async fn removed(
        &self,
        housekeeping: impl Fn() -> Statement + Send + Sync,
    ) -> Result<u64, StoreError> {
        let found = self.change_once(housekeeping).await?;
        Facts::of(&found)?;
        let removed: i64 = found[0].try_get("removed").map_err(unexpected)?;
        Ok(removed.unsigned_abs())
    }
}
