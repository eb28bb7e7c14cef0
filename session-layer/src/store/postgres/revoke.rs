//! Ending sessions.

use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use sqlx::{Connection as _, Row as _};
use tokio::time::Instant;

use super::PostgresStore;
use super::ask::{statement, within};
use super::connection::Connection;
use super::errors::Progress;
use super::read::of_one;
use super::rows::{self, DIGESTS, Facts, unexpected};
use crate::error::{StoreError, StoreErrorKind};
use crate::session::SessionId;
use crate::store::{Revoked, Target};

/// How often a session is tried to be ended that changes at the same time.
const TRIES: u32 = 4;

impl PostgresStore {
    pub(super) async fn revoke_target(
        &self,
        target: &Target,
        reason: &str,
    ) -> Result<Revoked, StoreError> {
        match target {
            Target::User { user_id, keep } => self.revoke_user(user_id, *keep, reason).await,
            one => self.revoke_one(one, reason).await,
        }
    }

    /// Asks again where the row was seen alive and was not ended: while the statement waited for it somebody
    /// else ended it, and then the second look says so; or gave it another token, and then there is nothing
    /// under this one, which must not be reported as an end.
    async fn revoke_one(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        let began = Instant::now();
        for tries in 0..TRIES {
            if tries > 0 && began.elapsed() > self.change_deadline {
                break;
            }
            let revoke = of_one(&self.statements.revoke, target).bind(reason.to_owned());
            let found = self.change_once(revoke).await?;
            let facts = Facts::of(&found)?;
            let revoked = tally(&found, None)?;
            if revoked.found == 0 {
                facts.no_session()?;
            }
            let mut slipped_away = false;
            for row in &found {
                let alive: Option<bool> = row.try_get("alive").map_err(unexpected)?;
                let ended = rows::session_id(row, "ended").map_err(unexpected)?;
                if alive == Some(true) && ended.is_none() {
                    // A policy of row-level security may let us read the row, but not change it.
                    facts.no_session()?;
                    slipped_away = true;
                }
            }
            if !slipped_away {
                return Ok(revoked);
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Other,
            "the session changed at each try to end it; try again",
        ))
    }

    async fn revoke_user(
        &self,
        user_id: &str,
        keep: Option<SessionId>,
        reason: &str,
    ) -> Result<Revoked, StoreError> {
        let progress = Progress::default();
        let revoking = async {
            let mut connection = self.answering().await?;
            progress.asking();
            match self
                .revoke_user_over(&mut connection, user_id, keep, reason, &progress)
                .await
            {
                Ok(revoked) => {
                    connection.give_back();
                    Ok(revoked)
                }
                // Closing the connection rolls back whatever was begun.
                Err(Failure::Store(error)) => Err(error),
                Err(Failure::Statement(error)) => {
                    drop(connection);
                    Err(self.explain(error, &progress).await)
                }
            }
        };
        within(self.change_deadline, &progress, revoking).await
    }

    /// The epoch is raised first: a login that has not locked the user's row by then waits, and is
    /// refused; one that has is waited for, and the second statement, with a snapshot of its own,
    /// finds what it created. In REPEATABLE READ that would have the snapshot of the first.
    async fn revoke_user_over(
        &self,
        connection: &mut Connection,
        user_id: &str,
        keep: Option<SessionId>,
        reason: &str,
        progress: &Progress,
    ) -> Result<Revoked, Failure> {
        let mut transaction = connection
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
            .await?;
        let epoch: i64 = statement(&self.statements.raise_epoch)
            .bind(user_id.to_owned())
            .persistent(!self.pooled)
            .fetch_one(&mut *transaction)
            .await?
            .try_get(0)?;
        let found = statement(&self.statements.revoke_user)
            .bind(user_id.to_owned())
            .bind(epoch)
            .bind(keep.map(|id| Uuid::from_bytes(*id.as_bytes())))
            .bind(reason.to_owned())
            .persistent(!self.pooled)
            .fetch_all(&mut *transaction)
            .await?;
        let facts = Facts::of(&found)?;
        facts.no_session()?;
        let revoked = tally(&found, keep)?;
        progress.changing();
        transaction.commit().await?;
        progress.asking();
        Ok(revoked)
    }
}

/// Why a transaction was not made: Postgres refused, or its answer is not the truth.
enum Failure {
    Statement(sqlx::Error),
    Store(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Counts what was found and ended, but for the one that is spared. Its digests are among them all
/// the same: its version was raised, so its cached copies are out of date.
fn tally(found: &[PgRow], keep: Option<SessionId>) -> Result<Revoked, StoreError> {
    let mut revoked = Revoked::nothing();
    for row in found {
        let Some(id) = rows::session_id(row, "id").map_err(unexpected)? else {
            continue;
        };
        if keep != Some(id) {
            revoked.found += 1;
            if rows::session_id(row, "ended")
                .map_err(unexpected)?
                .is_some()
            {
                revoked.ended += 1;
            }
        }
        let ended = ["ended_token", "ended_previous", "ended_former_digests"];
        for columns in [DIGESTS, ended] {
            rows::gather(&mut revoked.digests, row, &columns).map_err(unexpected)?;
        }
    }
    revoked.digests = rows::each_once(revoked.digests);
    Ok(revoked)
}
