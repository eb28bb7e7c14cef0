//! Creation of a session, unless a revoke-all of its user came in the meantime.
//!
//! `create` locks the user's row FOR SHARE. It therefore waits for a revoke-all in progress. A
//! later revoke-all waits for it, and then raises the epoch above the new session's. If a
//! transaction raised the epoch that the login's snapshot does not show, nothing is created. A
//! snapshot of another life proves nothing, so such a login is rejected as well.

use sqlx::Row as _;
use sqlx::types::Uuid;

use super::PostgresStore;
use super::errors::Progress;
use super::execute::{STATEMENT_TRIES, micros, statement, within};
use super::rows::{self, Facts, unexpected};
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::{LoginSnapshot, ValidatedSession};
use crate::model::token::TokenDigest;
use crate::store::Creation;

/// The result of one try.
enum Attempt {
    Done(Creation),
    /// No life of the database has begun. Holds the snapshot of this try, without a life.
    NoLife(String),
    /// The user has never logged in. Holds the snapshot of this try, which the next one uses.
    UnknownUser(String),
}

impl PostgresStore {
    /// Reads the life and the snapshot of Postgres as text.
    pub(super) async fn read_login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        let query = || statement(&self.statements.login_snapshot);
        let found = self.read_for_change(query).await?;
        Facts::of(&found)?;
        let snapshot: String = found[0].try_get("login_snapshot").map_err(unexpected)?;
        LoginSnapshot::new(snapshot)
            .map_err(|error| unexpected(sqlx::Error::Decode(Box::new(error))))
    }

    pub(super) async fn create_new(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        let begun = match &new.begun {
            Some(snapshot) => Some(snapshot.to_string()),
            // The application's pool may use another isolation level, under which a try may be
            // rolled back. The next try needs a snapshot from before.
            None if !self.connections.is_own() => {
                Some(self.read_login_snapshot().await?.to_string())
            }
            None => None,
        };
        let progress = Progress::default();
        within(self.change_deadline, &progress, self.create_in_turn(digest, new, begun, &progress))
            .await
    }

    async fn create_in_turn(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
        mut begun: Option<String>,
        progress: &Progress,
    ) -> Result<Creation, StoreError> {
        // Two tries are enough in general. The others are for a life that has yet to begin, and for
        // a user row that an operator deletes in between.
        for _ in 0..4 {
            match self.attempt(digest, new, begun.clone(), progress).await? {
                Attempt::Done(creation) => return Ok(creation),
                Attempt::NoLife(snapshot) => {
                    // The snapshot is of this server run, and so of the life that begins in it.
                    let life = self.begin_life().await?;
                    begun.get_or_insert_with(|| format!("{life}{snapshot}"));
                }
                Attempt::UnknownUser(snapshot) => {
                    // A later snapshot would miss a revoke-all between the tries.
                    begun = Some(snapshot);
                    // If the reply is lost, no session was created all the same.
                    let add = || statement(&self.statements.add_user).bind(new.user_id.clone());
                    self.change(&Progress::default(), STATEMENT_TRIES, add).await?;
                }
            }
        }
        Err(StoreError::new(
            StoreErrorKind::NotAuthoritative,
            "the user's row in session_users cannot be read after it was written: it is being \
             deleted, or row-level security hides it from our role (ALTER ROLE … BYPASSRLS)",
        ))
    }

    async fn attempt(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
        begun: Option<String>,
        progress: &Progress,
    ) -> Result<Attempt, StoreError> {
        // The idle timeout is rounded up to whole seconds.
        let idle = new.idle_timeout.map(|idle| {
            let seconds = idle.as_secs() + u64::from(idle.subsec_nanos() > 0);
            i32::try_from(seconds).unwrap_or(i32::MAX)
        });
        // Without a snapshot from before the first try, a second one would miss a revoke-all that
        // the first one met.
        let tries = if begun.is_some() { STATEMENT_TRIES } else { 1 };
        let create = || {
            statement(&self.statements.create)
                .bind(Uuid::from_bytes(*new.id.as_bytes()))
                .bind(new.user_id.clone())
                .bind(digest.as_bytes().to_vec())
                .bind(new.data.get().to_owned())
                .bind(new.label.clone())
                .bind(new.ip.map(|ip| ip.to_string()))
                .bind(new.user_agent.clone())
                .bind(idle)
                .bind(micros(new.lifetime))
                .bind(begun.clone())
                .bind(new.persistent)
        };
        let found = self.change(progress, tries, create).await?;
        let facts = Facts::of(&found)?;
        let row = found.first().ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
        if facts.life.is_none() {
            return Ok(Attempt::NoLife(row.try_get("login_snapshot").map_err(unexpected)?));
        }
        if let Some(session) = rows::session(row).map_err(unexpected)? {
            return Ok(Attempt::Done(Creation::Created(session)));
        }
        if !row.try_get::<bool, _>("user_known").map_err(unexpected)? {
            return Ok(Attempt::UnknownUser(row.try_get("login_snapshot").map_err(unexpected)?));
        }
        Ok(Attempt::Done(if row.try_get("superseded").map_err(unexpected)? {
            Creation::Superseded
        } else {
            Creation::AlreadyExists
        }))
    }
}
