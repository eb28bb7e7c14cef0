//! Changes. Each locks the file, and then reads, decides and writes.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::SqliteStore;
use super::connection::ConnectionTurn;
use super::record::Record;
use crate::model::clock::Timestamp;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::{LoginSnapshot, SessionId, ValidatedSession};
use crate::model::token::TokenDigest;
use crate::store::{Change, Creation, RevocationNote, Revoked, Target};

/// Reads the snapshot of a login: the number of the last revoke-all before it.
fn raise_number(snapshot: &LoginSnapshot) -> Result<i64, StoreError> {
    snapshot.as_str().parse().map_err(|error| {
        StoreError::new(StoreErrorKind::Input, "the login began in another store: begin it again")
            .with_source(error)
    })
}

impl SqliteStore {
    pub(super) fn read_login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        LoginSnapshot::new(self.connection.raises().to_string()).map_err(|error| {
            StoreError::new(StoreErrorKind::Other, "the number of the last revoke-all is malformed")
                .with_source(error)
        })
    }

    pub(super) async fn create_now(
        &self,
        digest: TokenDigest,
        new: ValidatedSession,
    ) -> Result<Creation, StoreError> {
        let begun = match &new.begun {
            Some(snapshot) => raise_number(snapshot)?,
            None => self.connection.raises(),
        };
        self.connection.change(move |turn| Box::pin(create(turn, digest, new, begun))).await
    }

    pub(super) async fn revoke_target(
        &self,
        target: Target,
        note: RevocationNote,
    ) -> Result<Revoked, StoreError> {
        self.connection
            .change(move |turn| {
                Box::pin(async move {
                    let ConnectionTurn { connection, now, mut raises } = turn;
                    let found = Record::of_target(connection, &target, now).await?;
                    let mut keep = None;
                    if let Target::User { user_id, keep: kept } = target {
                        keep = kept;
                        raise(connection, user_id, raises.next(), keep, now).await?;
                    }
                    end(connection, found, keep, &note, now).await
                })
            })
            .await
    }

    pub(super) async fn update_data(
        &self,
        id: SessionId,
        version: i64,
        data: String,
    ) -> Result<Change, StoreError> {
        self.connection
            .change(move |turn| {
                Box::pin(async move {
                    let Some(was) = active(&mut *turn.connection, id, turn.now).await? else {
                        return Ok(Change::NoSession);
                    };
                    if was.version != version {
                        return Ok(Change::Conflict);
                    }
                    // Setting the version makes it a change even if the data is the same.
                    sqlx::query(
                        "UPDATE sessions SET data = $1, version = version + 1 WHERE id = $2",
                    )
                    .bind(data)
                    .bind(id.to_string())
                    .execute(&mut *turn.connection)
                    .await?;
                    made(turn.connection, id, was.digests()).await
                })
            })
            .await
    }

    pub(super) async fn rotate_token(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        self.connection
            .change(move |turn| {
                Box::pin(async move {
                    let ConnectionTurn { connection, now, .. } = turn;
                    let Some(was) = Record::by_token(connection, old).await? else {
                        let rotated = Record::by_previous(connection, old).await?;
                        return Ok(match rotated {
                            Some(rotated) if rotated.is_active(now) => Change::Conflict,
                            _ => Change::NoSession,
                        });
                    };
                    if !was.is_active(now) {
                        return Ok(Change::NoSession);
                    }
                    let id = was.id;
                    sqlx::query(
                        "UPDATE sessions SET token_digest = $1, previous_digest = $2, \
                         previous_until = $3 WHERE id = $4",
                    )
                    .bind(new.as_bytes().to_vec())
                    .bind(old.as_bytes().to_vec())
                    .bind(now.after(grace).as_micros())
                    .bind(id.to_string())
                    .execute(&mut *connection)
                    .await?;
                    let digests = was.digests().into_iter().chain([new]).collect();
                    made(connection, id, digests).await
                })
            })
            .await
    }

    pub(super) async fn touch_session(
        &self,
        id: SessionId,
        granularity: Duration,
    ) -> Result<Change, StoreError> {
        self.connection
            .change(move |turn| {
                Box::pin(async move {
                    let Some(was) = active(&mut *turn.connection, id, turn.now).await? else {
                        return Ok(Change::NoSession);
                    };
                    if was.last_seen_at.after(granularity) <= turn.now {
                        sqlx::query("UPDATE sessions SET last_seen_at = $1 WHERE id = $2")
                            .bind(turn.now.as_micros())
                            .bind(id.to_string())
                            .execute(&mut *turn.connection)
                            .await?;
                    }
                    made(turn.connection, id, was.digests()).await
                })
            })
            .await
    }
}

async fn active(
    connection: &mut SqliteConnection,
    id: SessionId,
    now: Timestamp,
) -> Result<Option<Record>, sqlx::Error> {
    let found = Record::by_id(connection, id.to_string()).await?;
    Ok(found.filter(|record| record.is_active(now)))
}

/// Returns the session as the triggers left it.
async fn made(
    connection: &mut SqliteConnection,
    id: SessionId,
    digests: Vec<TokenDigest>,
) -> Result<Change, sqlx::Error> {
    Ok(match Record::by_id(connection, id.to_string()).await? {
        Some(record) => Change::Made { session: record.session?, digests },
        None => Change::NoSession,
    })
}

async fn create(
    turn: ConnectionTurn<'_>,
    digest: TokenDigest,
    new: ValidatedSession,
    begun: i64,
) -> Result<Creation, sqlx::Error> {
    let ConnectionTurn { connection, now, .. } = turn;
    let user: Option<(i64, Option<i64>)> =
        sqlx::query_as("SELECT epoch, raised_by FROM session_users WHERE user_id = $1")
            .bind(new.user_id.clone())
            .fetch_optional(&mut *connection)
            .await?;
    if let Some((_, Some(raised_by))) = user
        && raised_by > begun
    {
        return Ok(Creation::Superseded);
    }
    // The digest before a rotation is taken too, within its grace or after it, as in Postgres.
    if Record::by_token(connection, digest).await?.is_some()
        || Record::by_previous(connection, digest).await?.is_some()
    {
        return Ok(Creation::AlreadyExists);
    }
    if user.is_none() {
        sqlx::query("INSERT INTO session_users (user_id) VALUES ($1)")
            .bind(new.user_id.clone())
            .execute(&mut *connection)
            .await?;
    }
    // The idle timeout is rounded up to whole seconds.
    let idle = new.idle_timeout.map(|idle| {
        let seconds = idle.as_secs() + u64::from(idle.subsec_nanos() > 0);
        i32::try_from(seconds).unwrap_or(i32::MAX)
    });
    sqlx::query(
        "INSERT INTO sessions (id, token_digest, user_id, user_epoch, data, label, ip, user_agent, \
         created_at, authenticated_at, last_seen_at, idle_timeout_s, expires_at, persistent) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $9, $10, $11, $12)",
    )
    .bind(new.id.to_string())
    .bind(digest.as_bytes().to_vec())
    .bind(new.user_id)
    .bind(user.map_or(0, |(epoch, _)| epoch))
    .bind(new.data.get().to_owned())
    .bind(new.label)
    .bind(new.ip.map(|ip| ip.to_string()))
    .bind(new.user_agent)
    .bind(now.as_micros())
    .bind(idle)
    .bind(now.after(new.lifetime).as_micros())
    .bind(new.persistent)
    .execute(&mut *connection)
    .await?;
    let created = Record::by_token(connection, digest).await?;
    let created = created.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Creation::Created(created.session?))
}

/// Raises the user's epoch, and lifts the spared session into the new one.
async fn raise(
    connection: &mut SqliteConnection,
    user_id: String,
    number: i64,
    keep: Option<SessionId>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let kept = match keep {
        Some(id) => active(connection, id, now).await?,
        None => None,
    };
    let epoch: i64 = sqlx::query_scalar(
        "INSERT INTO session_users (user_id, epoch, raised_by, raised_at) VALUES ($1, 1, $2, $3) \
         ON CONFLICT (user_id) DO UPDATE \
         SET epoch = epoch + 1, raised_by = excluded.raised_by, raised_at = excluded.raised_at \
         RETURNING epoch",
    )
    .bind(user_id.clone())
    .bind(number)
    .bind(now.as_micros())
    .fetch_one(&mut *connection)
    .await?;
    if let Some(kept) = kept {
        sqlx::query("UPDATE sessions SET user_epoch = $1 WHERE id = $2 AND user_id = $3")
            .bind(epoch)
            .bind(kept.id.to_string())
            .bind(user_id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Ends those of `found` that were active when found, except the spared session. Its digests count
/// too, because its version was raised and its entries are out of date.
async fn end(
    connection: &mut SqliteConnection,
    found: Vec<Record>,
    keep: Option<SessionId>,
    note: &RevocationNote,
    now: Timestamp,
) -> Result<Revoked, sqlx::Error> {
    let mut revoked = Revoked::nothing();
    for record in found {
        revoked.digests.extend(record.digests());
        if keep == Some(record.id) {
            continue;
        }
        revoked.found += 1;
        if record.is_active(now) {
            revoked.ended += 1;
            sqlx::query(
                "UPDATE sessions SET revoked_at = $1, ended_reason = $2, ended_by = $3 \
                     WHERE id = $4",
            )
            .bind(now.as_micros())
            .bind(note.reason.clone())
            .bind(note.actor.clone())
            .bind(record.id.to_string())
            .execute(&mut *connection)
            .await?;
        }
    }
    Ok(revoked)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests;
