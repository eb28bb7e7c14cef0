//! Changes to one session that is alive: its data, its token, when it was last seen.
//!
//! Each is one statement that returns, beside the session as it is now (if the change was made), what
//! the session was when the statement began. Where that says the change should have been made and it
//! was not, someone else's change came in between; or row-level security let us read the row but not
//! change it.

use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use tokio::time::sleep;

use super::PostgresStore;
use super::ask::{Statement, micros, statement};
use super::rows::{self, DIGESTS, Facts, unexpected};
use crate::error::StoreError;
use crate::session::SessionId;
use crate::store::Change;
use crate::token::TokenDigest;

/// How often a touch looks at a row that somebody else is changing.
const LOOKS: u32 = 4;
/// Longer than another touch takes.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

impl PostgresStore {
    pub(super) async fn update_data(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        let update = statement(&self.statements.update)
            .bind(Uuid::from_bytes(*id.as_bytes()))
            .bind(version)
            .bind(data.get().to_owned());
        self.change_one(update).await
    }

    pub(super) async fn rotate_token(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        let rotate = statement(&self.statements.rotate)
            .bind(old.as_bytes().to_vec())
            .bind(new.as_bytes().to_vec())
            .bind(micros(grace));
        self.change_one(rotate).await
    }

    /// Two touches at once are no conflict. One that came too late for its own, or finds the row locked,
    /// looks again: the other may have been a touch, or a revocation. Of a row that stays locked there is
    /// nothing to say.
    ///
    /// It is part of a validation, and has the connections of those: the others may all be waiting for
    /// locks. Like a read it may be made twice.
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
        for look in 0..LOOKS {
            if look > 0 {
                sleep(BETWEEN_LOOKS).await;
            }
            let found = self
                .read_over(&self.reading, self.validations(), touch)
                .await?;
            let (row, facts) = answer(&found)?;
            match outcome(row, &facts)? {
                Outcome::Made | Outcome::Unneeded => return made(row),
                Outcome::Dead => return Ok(Change::NoSession),
                Outcome::Overtaken => {}
            }
        }
        Ok(Change::Conflict)
    }

    async fn change_one(&self, change: Statement) -> Result<Change, StoreError> {
        let found = self.change_once(change).await?;
        let (row, facts) = answer(&found)?;
        match outcome(row, &facts)? {
            Outcome::Made => made(row),
            Outcome::Dead => Ok(Change::NoSession),
            Outcome::Unneeded | Outcome::Overtaken => Ok(Change::Conflict),
        }
    }
}

/// What the answer to a change says: what was made, and what the session was when the statement began. (A rotation
/// expects the token, an update the version, a touch that the last one is long enough ago.)
///
/// | `made` | `was` | `alive` | `expected` | outcome | to an update or a rotation | to a touch |
/// |---|---|---|---|---|---|---|
/// | a row | – | – | – | `Made` | made | made |
/// | – | none | – | – | `Dead` | no such session | no such session |
/// | – | a row | no | – | `Dead` | no such session | no such session |
/// | – | a row | yes | no | `Unneeded` | a conflict | made, by another |
/// | – | a row | yes | yes | `Overtaken` | a conflict | look again |
enum Outcome {
    Made,
    Dead,
    Unneeded,
    Overtaken,
}

fn answer(found: &[PgRow]) -> Result<(&PgRow, Facts), StoreError> {
    let facts = Facts::of(found)?;
    let row = found
        .first()
        .ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
    Ok((row, facts))
}

fn outcome(row: &PgRow, facts: &Facts) -> Result<Outcome, StoreError> {
    if rows::session_id(row, "made").map_err(unexpected)?.is_some() {
        return Ok(Outcome::Made);
    }
    if rows::session_id(row, "was").map_err(unexpected)?.is_none() {
        facts.no_session()?;
        return Ok(Outcome::Dead);
    }
    facts.compared(row)?;
    let is = |column| {
        row.try_get::<Option<bool>, _>(column)
            .map(|value| value == Some(true))
            .map_err(unexpected)
    };
    if !is("alive")? {
        return Ok(Outcome::Dead);
    }
    if !is("expected")? {
        return Ok(Outcome::Unneeded);
    }
    facts.no_session()?;
    Ok(Outcome::Overtaken)
}

fn made(row: &PgRow) -> Result<Change, StoreError> {
    let session = rows::session(row)
        .map_err(unexpected)?
        .ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
    let mut digests = Vec::new();
    rows::gather(&mut digests, row, &DIGESTS).map_err(unexpected)?;
    Ok(Change::Made {
        session,
        digests: rows::each_once(digests),
    })
}
