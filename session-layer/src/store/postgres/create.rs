//! Creating a session, unless all of the user's were revoked in the meantime.
//!
//! The rule: `create` locks the user's row FOR SHARE, so that it waits for a revoke-all that is
//! under way, and a later one waits for it and then finds the new row. If the epoch was raised by a
//! transaction that had not committed when the login began (it is not visible in the snapshot of
//! then, or, where Postgres has crashed in between and uses ids again, it began later), nothing is created.

use sqlx::Row as _;
use sqlx::types::Uuid;

use super::PostgresStore;
use super::ask::{micros, statement, within};
use super::errors::Progress;
use super::rows::{self, Facts, unexpected};
use crate::error::{StoreError, StoreErrorKind};
use crate::session::{CheckedSession, LoginMoment};
use crate::store::Creation;
use crate::token::TokenDigest;

/// What one try came to.
enum Attempt {
    Done(Creation),
    /// Nobody of that name ever logged in; the moment that the next try goes by.
    UnknownUser(String),
}

impl PostgresStore {
    /// Where Postgres stands: the time and its snapshot as text.
    pub(super) async fn moment(&self) -> Result<LoginMoment, StoreError> {
        let ask = || statement(&self.statements.moment);
        let found = self.read_for_change(ask).await?;
        Facts::of(&found)?;
        let moment: String = found[0].try_get("moment").map_err(unexpected)?;
        LoginMoment::new(moment).map_err(|error| unexpected(sqlx::Error::Decode(Box::new(error))))
    }

    pub(super) async fn create_new(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
    ) -> Result<Creation, StoreError> {
        let begun = new.begun.as_ref().map(ToString::to_string);
        let progress = Progress::default();
        within(
            self.change_deadline,
            &progress,
            self.create_in_turn(digest, new, begun, &progress),
        )
        .await
    }

    async fn create_in_turn(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
        mut begun: Option<String>,
        progress: &Progress,
    ) -> Result<Creation, StoreError> {
        // Twice would do. A third time is for a user row deleted by hand in between.
        for _ in 0..3 {
            match self.attempt(digest, new, begun.clone(), progress).await? {
                Attempt::Done(Creation::Superseded) if self.raised_elsewhere(new).await? => {}
                Attempt::Done(creation) => return Ok(creation),
                Attempt::UnknownUser(moment) => {
                    // The first moment counts, else a revoke-all between the tries is missed.
                    begun = Some(moment);
                    // Should the answer be lost, no session was created all the same.
                    let add = statement(&self.statements.add_user).bind(new.user_id.clone());
                    self.change(&Progress::default(), add).await?;
                }
            }
        }
        Err(StoreError::new(
            StoreErrorKind::NotAuthoritative,
            "the user's row in session_users cannot be seen after it was written: it is being deleted, or \
             row-level security hides it from our role (ALTER ROLE … BYPASSRLS)",
        ))
    }

    async fn attempt(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
        begun: Option<String>,
        progress: &Progress,
    ) -> Result<Attempt, StoreError> {
        // Whole seconds, and not less than was asked for.
        let idle = new.idle_timeout.map(|idle| {
            let seconds = idle.as_secs() + u64::from(idle.subsec_nanos() > 0);
            i32::try_from(seconds).unwrap_or(i32::MAX)
        });
        let create = statement(&self.statements.create)
            .bind(Uuid::from_bytes(*new.id.as_bytes()))
            .bind(new.user_id.clone())
            .bind(digest.as_bytes().to_vec())
            .bind(new.data.get().to_owned())
            .bind(new.label.clone())
            .bind(new.ip.map(|ip| ip.to_string()))
            .bind(new.user_agent.clone())
            .bind(idle)
            .bind(micros(new.lifetime))
            .bind(begun)
            .bind(new.persistent);
        let found = self.change(progress, create).await?;
        Facts::of(&found)?;
        let row = found
            .first()
            .ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
        if let Some(session) = rows::session(row).map_err(unexpected)? {
            return Ok(Attempt::Done(Creation::Created(session)));
        }
        if !row.try_get::<bool, _>("user_known").map_err(unexpected)? {
            return Ok(Attempt::UnknownUser(
                row.try_get("moment").map_err(unexpected)?,
            ));
        }
        Ok(Attempt::Done(
            if row.try_get("superseded").map_err(unexpected)? {
                Creation::Superseded
            } else {
                Creation::Taken
            },
        ))
    }

    /// Was the epoch raised by a transaction that this server has not reached yet? Then it came here
    /// with a dump from another one, where transactions have other numbers: it is long over, and
    /// without this the user could not log in until the numbers catch up. (Whatever we have seen
    /// committed here is below the next transaction of a snapshot taken now.)
    async fn raised_elsewhere(&self, new: &CheckedSession) -> Result<bool, StoreError> {
        let progress = Progress::default();
        let ask = statement(&self.statements.foreign_raise).bind(new.user_id.clone());
        let found = self.change(&progress, ask).await?;
        let Some(row) = found.first() else {
            return Ok(false);
        };
        let raised_by: String = row.try_get(0).map_err(unexpected)?;
        let forget = statement(&self.statements.forget_raise)
            .bind(new.user_id.clone())
            .bind(raised_by);
        self.change(&progress, forget).await?;
        Ok(true)
    }
}
