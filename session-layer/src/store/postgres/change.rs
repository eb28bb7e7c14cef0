//! Changes to one active session: its data, its token, its last use.
//!
//! Each is one statement. It returns the session after the change, if it was made, and the session
//! when the statement began. If the change should have been made and was not, another change came
//! in between. Otherwise row-level security permits reading the row but not changing it.

use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use tokio::time::sleep;

use super::PostgresStore;
use super::execute::{Statement, micros, statement};
use super::rows::{self, DIGESTS, Facts, unexpected};
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::SessionId;
use crate::model::token::TokenDigest;
use crate::store::Change;

/// How often a touch tries a row that is locked or has just changed.
const CHANGE_TRIES: u32 = 4;
/// The delay between tries, which is longer than another touch takes.
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

impl PostgresStore {
    pub(super) async fn update_data(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        self.change_one(|| {
            statement(&self.statements.update)
                .bind(Uuid::from_bytes(*id.as_bytes()))
                .bind(version)
                .bind(data.get().to_owned())
        })
        .await
    }

    pub(super) async fn rotate_token(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        self.change_one(|| {
            statement(&self.statements.rotate)
                .bind(old.as_bytes().to_vec())
                .bind(new.as_bytes().to_vec())
                .bind(micros(grace))
        })
        .await
    }

    /// Records a use of the session. Two concurrent touches are no conflict. A touch that comes
    /// after another one, or finds the row locked, tries again: the other change may have been a
    /// revocation. If the row stays locked, the result is a conflict.
    ///
    /// A touch is part of a validation and uses its connections, because the others may all be
    /// waiting for locks. Like a read, it may be sent twice.
    pub(super) async fn touch_session(
        &self,
        id: SessionId,
        granularity: Duration,
    ) -> Result<Change, StoreError> {
        let touch = || {
            statement(&self.statements.touch)
                .bind(Uuid::from_bytes(*id.as_bytes()))
                .bind(micros(granularity))
        };
        for tried in 0..CHANGE_TRIES {
            if tried > 0 {
                sleep(BETWEEN_TRIES).await;
            }
            let found = self.read_over(&self.reading, self.validations(), touch).await?;
            let (row, facts) = first_row(&found)?;
            match outcome(row, &facts)? {
                ChangeOutcome::Made | ChangeOutcome::Unneeded => return made(row),
                ChangeOutcome::Ended => return Ok(Change::NoSession),
                ChangeOutcome::Overtaken => {}
            }
        }
        Ok(Change::Conflict)
    }

    async fn change_one(
        &self,
        change: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Change, StoreError> {
        let found = self.change_once(change).await?;
        let (row, facts) = first_row(&found)?;
        match outcome(row, &facts)? {
            ChangeOutcome::Made => made(row),
            ChangeOutcome::Ended => Ok(Change::NoSession),
            ChangeOutcome::Unneeded | ChangeOutcome::Overtaken => Ok(Change::Conflict),
        }
    }
}

/// The result of a change, from the row after the change and the row when the statement began. A
/// rotation expects the token, an update the version, and a touch that the last one is old enough.
/// | `made` | `was` | `alive` | `expected` | result | of an update or rotation | of a touch |
/// |---|---|---|---|---|---|---|
/// | a row | – | – | – | `Made` | made | made |
/// | – | none | – | – | `Ended` | no such session | no such session |
/// | – | a row | no | – | `Ended` | no such session | no such session |
/// | – | a row | yes | no | `Unneeded` | a conflict | made by another touch |
/// | – | a row | yes | yes | `Overtaken` | a conflict | try again |
enum ChangeOutcome {
    Made,
    Ended,
    Unneeded,
    Overtaken,
}

fn first_row(found: &[PgRow]) -> Result<(&PgRow, Facts), StoreError> {
    let facts = Facts::of(found)?;
    let row = found.first().ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
    Ok((row, facts))
}

fn outcome(row: &PgRow, facts: &Facts) -> Result<ChangeOutcome, StoreError> {
    if rows::session_id(row, "made").map_err(unexpected)?.is_some() {
        return Ok(ChangeOutcome::Made);
    }
    if rows::session_id(row, "was").map_err(unexpected)?.is_none() {
        facts.sessions_visible()?;
        return Ok(ChangeOutcome::Ended);
    }
    facts.epoch_visible(row)?;
    let is = |column| {
        row.try_get::<Option<bool>, _>(column).map(|value| value == Some(true)).map_err(unexpected)
    };
    if !is("alive")? {
        return Ok(ChangeOutcome::Ended);
    }
    if !is("expected")? {
        return Ok(ChangeOutcome::Unneeded);
    }
    facts.sessions_visible()?;
    Ok(ChangeOutcome::Overtaken)
}

fn made(row: &PgRow) -> Result<Change, StoreError> {
    // The change is committed, even if the row cannot be read.
    let unreadable = |error| {
        StoreError::new(
            StoreErrorKind::Uncertain,
            "the session was changed, but its row cannot be read: correct it, or delete it to end \
             the session",
        )
        .with_source(error)
    };
    let session = rows::session(row)
        .map_err(unreadable)?
        .ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
    let mut digests = Vec::new();
    rows::gather(&mut digests, row, &DIGESTS).map_err(unexpected)?;
    Ok(Change::Made { session, digests: rows::each_once(digests) })
}
