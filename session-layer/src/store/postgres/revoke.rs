//! Revocation of sessions.

use std::ops::Range;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use tokio::time::{Instant, timeout};

use super::PostgresStore;
use super::execute::statement;
use super::read::{of_some, place};
use super::rows::{self, DIGESTS, Facts, unexpected};
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::{ListCursor, SessionId};
use crate::store::{EndedUser, RevocationNote, Revoked, Target};

/// The maximum of a user's sessions whose entries are removed one by one. Redis removes that many
/// within about 50 ms. The journal ends the entries of a user with more.
const COPIES: i64 = 10_000;
/// The number of rows that are marked at once. Their locks are held for about 50 ms.
const ROWS_AT_ONCE: i64 = 1_000;
/// The maximum of tries to revoke a session that changes at the same time.
const REVOKE_TRIES: u32 = 4;

impl PostgresStore {
    pub(super) async fn revoke_target(
        &self,
        target: &Target,
        note: &RevocationNote,
    ) -> Result<Revoked, StoreError> {
        match target {
            Target::User { user_id, keep } => self.revoke_user(user_id, *keep).await,
            some => self.revoke_some(some, note).await,
        }
    }

    /// Revokes one session, or several by their ids. If a row was active and not revoked, the call
    /// tries again, because another change came while the statement waited. If that one ended the
    /// session, the second try shows it. If it was a rotation, there is nothing under this token,
    /// which must not be reported as an end.
    async fn revoke_some(
        &self,
        target: &Target,
        note: &RevocationNote,
    ) -> Result<Revoked, StoreError> {
        let began = Instant::now();
        // Each try is a transaction of its own. Of several sessions, some may end in each.
        let mut ended_before = 0;
        for tries in 0..REVOKE_TRIES {
            if tries > 0 && began.elapsed() > self.change_deadline {
                break;
            }
            let revoke = || {
                let revoke = of_some(&self.statements.revoke, target).bind(note.reason.clone());
                revoke.bind(note.actor.clone())
            };
            let found = match self.change_once(revoke).await {
                Err(error) if ended_before > 0 => return Err(some_ended(error)),
                found => found?,
            };
            let facts = Facts::of(&found)?;
            let mut revoked = tally(&found)?;
            revoked.ended += ended_before;
            ended_before = revoked.ended;
            if revoked.found == 0 {
                facts.sessions_visible()?;
            }
            let mut slipped_away = false;
            for row in &found {
                let alive: Option<bool> = row.try_get("alive").map_err(unexpected)?;
                let ended = rows::session_id(row, "ended").map_err(unexpected)?;
                if alive == Some(true) && ended.is_none() {
                    // Row-level security may permit reading but not changing the row.
                    facts.sessions_visible()?;
                    slipped_away = true;
                }
            }
            if !slipped_away {
                return Ok(revoked);
            }
        }
        let changed = StoreError::new(
            StoreErrorKind::Other,
            "the session changed at each try to revoke it: try again",
        );
        Err(if ended_before > 0 { some_ended(changed) } else { changed })
    }

    /// Revokes all of a user's sessions in one statement, which raises the epoch, however many
    /// there are. It waits for a login that has locked the user's row, which gets an epoch that is
    /// too low. A later login is rejected, or begins afterwards.
    ///
    /// The later reads are for the result alone: the number of sessions that ended, and the keys
    /// that may have entries. Their failure changes nothing.
    async fn revoke_user(
        &self,
        user_id: &str,
        spared: Option<SessionId>,
    ) -> Result<Revoked, StoreError> {
        let began = Instant::now();
        let raise = || {
            statement(&self.statements.raise_epoch)
                .bind(user_id.to_owned())
                .bind(spared.map(|id| Uuid::from_bytes(*id.as_bytes())))
        };
        let found = self.change_once(raise).await?;
        let facts = Facts::of(&found)?;
        let row = &found[0];
        let Some(epoch) = row.try_get("epoch").map_err(unexpected)? else {
            facts.sessions_visible()?;
            return Err(unexpected(sqlx::Error::RowNotFound));
        };
        let user = EndedUser {
            user_id: user_id.to_owned(),
            epoch,
            xid: rows::transaction(row, "xid").map_err(unexpected)?,
        };
        let was: i64 = row.try_get("was").map_err(unexpected)?;
        let left = self.change_deadline.saturating_sub(began.elapsed());
        let counted = timeout(left, self.count_user(user_id, spared, was..epoch)).await;
        let mut revoked = counted.ok().and_then(Result::ok).unwrap_or(Revoked {
            found: 1,
            complete: false,
            ..Revoked::nothing()
        });
        revoked.user = Some(user);
        Ok(revoked)
    }

    async fn count_user(
        &self,
        user_id: &str,
        spared: Option<SessionId>,
        ended: Range<i64>,
    ) -> Result<Revoked, StoreError> {
        let digests = || {
            statement(&self.statements.digests_of_user)
                .bind(user_id.to_owned())
                .bind(ended.end)
                .bind(COPIES + 1)
                .bind(ended.start)
        };
        let found = self.read_for_change(digests).await?;
        Facts::of(&found)?.sessions_visible()?;
        let mut revoked = Revoked::nothing();
        for row in &found {
            let Some(id) = rows::session_id(row, "id").map_err(unexpected)? else {
                continue;
            };
            if spared != Some(id) {
                revoked.found += 1;
                revoked.ended += u64::from(row.try_get::<bool, _>("ended").map_err(unexpected)?);
            }
            rows::gather(&mut revoked.digests, row, &DIGESTS).map_err(unexpected)?;
        }
        revoked.digests = rows::each_once(revoked.digests);
        if usize::try_from(COPIES).is_ok_and(|most| found.len() > most) {
            revoked.digests.clear();
            revoked.complete = false;
            let count = || {
                statement(&self.statements.count_ended)
                    .bind(user_id.to_owned())
                    .bind(ended.end)
                    .bind(ended.start)
            };
            // At least this many were found. Counting a million takes time, for which the response
            // does not wait long.
            if let Ok(counted) = self.read_for_change(count).await {
                let ended: i64 = counted[0].try_get("ended").map_err(unexpected)?;
                revoked.ended = ended.unsigned_abs();
                revoked.found = revoked.found.max(revoked.ended);
            }
        }
        Ok(revoked)
    }

    /// Marks the rows of one page of a user's sessions, which the epoch has ended already.
    pub(super) async fn end_page(
        &self,
        user: &EndedUser,
        note: &RevocationNote,
        after: Option<ListCursor>,
    ) -> Result<Option<ListCursor>, StoreError> {
        let (before, before_id) = place(after);
        let end = || {
            statement(&self.statements.end_rows)
                .bind(user.user_id.clone())
                .bind(user.epoch)
                .bind(note.reason.clone())
                .bind(before.clone())
                .bind(before_id)
                .bind(ROWS_AT_ONCE)
                .bind(note.actor.clone())
        };
        let found = self.change_once(end).await?;
        Facts::of(&found)?;
        let Some(id) = rows::session_id(&found[0], "last").map_err(unexpected)? else {
            return Ok(None);
        };
        let created_at = rows::timestamp(&found[0], "last_created_at").map_err(unexpected)?;
        Ok(Some(ListCursor::new(created_at, id)))
    }
}

/// Returns the error of a revocation that has ended some of its sessions by then.
fn some_ended(error: StoreError) -> StoreError {
    StoreError::new(
        StoreErrorKind::Uncertain,
        "some of the sessions have ended, the others may not have: try again",
    )
    .with_source(error)
}

/// Counts the sessions found and ended.
fn tally(found: &[PgRow]) -> Result<Revoked, StoreError> {
    let mut revoked = Revoked::nothing();
    for row in found {
        if rows::session_id(row, "id").map_err(unexpected)?.is_none() {
            continue;
        }
        revoked.found += 1;
        let ended = rows::session_id(row, "ended").map_err(unexpected)?;
        revoked.ended += u64::from(ended.is_some());
        let ended = ["ended_token", "ended_previous", "ended_former_digests"];
        for columns in [DIGESTS, ended] {
            rows::gather(&mut revoked.digests, row, &columns).map_err(unexpected)?;
        }
    }
    revoked.digests = rows::each_once(revoked.digests);
    Ok(revoked)
}
