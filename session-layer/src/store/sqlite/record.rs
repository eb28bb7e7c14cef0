//! A row, and whether its session is active.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};

use crate::model::clock::Timestamp;
use crate::model::session::{MAX_DATA_BYTES, Session, SessionId, SessionParts};
use crate::model::token::TokenDigest;
use crate::store::{Target, parse_data};

/// One row of `sessions`, with its user's epoch.
pub(super) struct Record {
    pub(super) id: SessionId,
    /// The session, or an error if its data cannot be read, or another value that does not decide
    /// whether it is active.
    pub(super) session: Result<Session, sqlx::Error>,
    pub(super) version: i64,
    pub(super) last_seen_at: Timestamp,
    user_id: String,
    expires_at: Timestamp,
    idle_timeout: Option<Duration>,
    pub(super) token: TokenDigest,
    pub(super) previous: Option<TokenDigest>,
    pub(super) previous_until: Option<Timestamp>,
    pub(super) user_epoch: i64,
    epoch: i64,
    revoked: bool,
}

/// The statement that reads `sessions` as [`Record`]s with `$condition`. It leaves out data over
/// [`MAX_DATA_BYTES`].
macro_rules! records {
    ($condition:literal) => {
        concat!(
            "SELECT s.id, s.token_digest, s.previous_digest, s.previous_until, s.user_id, \
             s.user_epoch, s.version, s.created_at, s.authenticated_at, s.last_seen_at, \
             s.idle_timeout_s, s.expires_at, s.revoked_at, s.persistent, CASE WHEN \
             length(CAST(s.data AS BLOB)) <= 65536 THEN s.data END AS data, coalesce(u.epoch, 0) \
             AS epoch FROM sessions s LEFT JOIN session_users u ON u.user_id = s.user_id WHERE ",
            $condition
        )
    };
}

const _: () = assert!(MAX_DATA_BYTES == 65_536);

const BY_TOKEN: &str = records!("s.token_digest = $1");
const BY_PREVIOUS: &str = records!("s.previous_digest = $1");
const BY_ID: &str = records!("s.id = $1");
const BY_USER: &str = records!("s.user_id = $1");

impl Record {
    pub(super) async fn by_token(
        connection: &mut SqliteConnection,
        digest: TokenDigest,
    ) -> Result<Option<Self>, sqlx::Error> {
        Self::one(connection, sqlx::query(BY_TOKEN).bind(digest.as_bytes().to_vec())).await
    }

    /// Reads the session with this previous digest, within its grace or after it.
    pub(super) async fn by_previous(
        connection: &mut SqliteConnection,
        digest: TokenDigest,
    ) -> Result<Option<Self>, sqlx::Error> {
        Self::one(connection, sqlx::query(BY_PREVIOUS).bind(digest.as_bytes().to_vec())).await
    }

    pub(super) async fn by_id(
        connection: &mut SqliteConnection,
        id: String,
    ) -> Result<Option<Self>, sqlx::Error> {
        Self::one(connection, sqlx::query(BY_ID).bind(id)).await
    }

    async fn one(
        connection: &mut SqliteConnection,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Option<Self>, sqlx::Error> {
        let row = query.fetch_optional(connection).await?;
        row.as_ref().map(Self::read).transpose()
    }

    pub(super) async fn by_user(
        connection: &mut SqliteConnection,
        user_id: String,
    ) -> Result<Vec<Self>, sqlx::Error> {
        let found = sqlx::query(BY_USER).bind(user_id);
        let rows = found.fetch_all(connection).await?;
        rows.iter().map(Self::read).collect()
    }

    /// Reads the session with `digest` as its token, or as its previous one within the grace. The
    /// session may have ended.
    pub(super) async fn by_any_token(
        connection: &mut SqliteConnection,
        digest: TokenDigest,
        now: Timestamp,
    ) -> Result<Option<Self>, sqlx::Error> {
        if let Some(record) = Self::by_token(connection, digest).await? {
            return Ok(Some(record));
        }
        let previous = Self::by_previous(connection, digest).await?;
        Ok(previous.filter(|record| record.previous_until.is_some_and(|until| until > now)))
    }

    pub(super) async fn of_target(
        connection: &mut SqliteConnection,
        target: &Target,
        now: Timestamp,
    ) -> Result<Vec<Self>, sqlx::Error> {
        let one = match target {
            Target::Token(digest) => Self::by_any_token(connection, *digest, now).await?,
            Target::Id(id) => Self::by_id(connection, id.to_string()).await?,
            Target::OwnedBy(id, owner) => Self::by_id(connection, id.to_string())
                .await?
                .filter(|record| record.user_id == *owner),
            Target::Ids(ids) => {
                let mut found = Vec::new();
                for id in ids {
                    found.extend(Self::by_id(connection, id.to_string()).await?);
                }
                return Ok(found);
            }
            Target::User { user_id, .. } => {
                return Self::by_user(connection, user_id.clone()).await;
            }
        };
        Ok(one.into_iter().collect())
    }

    fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let previous: Option<Vec<u8>> = row.try_get("previous_digest")?;
        let previous_until: Option<i64> = row.try_get("previous_until")?;
        Ok(Self {
            id: id(row)?,
            session: session(row),
            version: row.try_get("version")?,
            last_seen_at: timestamp(row, "last_seen_at")?,
            user_id: row.try_get("user_id")?,
            expires_at: timestamp(row, "expires_at")?,
            idle_timeout: idle_timeout(row)?,
            token: digest(&row.try_get::<Vec<u8>, _>("token_digest")?)?,
            previous: previous.as_deref().map(digest).transpose()?,
            previous_until: previous_until.map(Timestamp::from_micros),
            user_epoch: row.try_get("user_epoch")?,
            epoch: row.try_get("epoch")?,
            revoked: row.try_get::<Option<i64>, _>("revoked_at")?.is_some(),
        })
    }

    /// Returns whether the session was revoked, by itself or by a revoke-all.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked || self.user_epoch < self.epoch
    }

    pub(super) fn is_active(&self, now: Timestamp) -> bool {
        let is_used = |idle| self.last_seen_at.after(idle) > now;
        !self.is_revoked() && self.expires_at > now && self.idle_timeout.is_none_or(is_used)
    }

    pub(super) fn digests(&self) -> Vec<TokenDigest> {
        std::iter::once(self.token).chain(self.previous).collect()
    }
}

fn session(row: &SqliteRow) -> Result<Session, sqlx::Error> {
    let parts = SessionParts {
        id: id(row)?,
        user_id: row.try_get("user_id")?,
        version: row.try_get("version")?,
        created_at: timestamp(row, "created_at")?,
        authenticated_at: timestamp(row, "authenticated_at")?,
        last_seen_at: timestamp(row, "last_seen_at")?,
        expires_at: timestamp(row, "expires_at")?,
        idle_timeout: idle_timeout(row)?,
        persistent: row.try_get("persistent")?,
        data: parse_data(row.try_get("data")?).map_err(sqlx::Error::Decode)?,
    };
    Ok(parts.into())
}

pub(super) fn id(row: &SqliteRow) -> Result<SessionId, sqlx::Error> {
    row.try_get::<String, _>("id")?.parse().map_err(decode)
}

pub(super) fn timestamp(row: &SqliteRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    row.try_get(column).map(Timestamp::from_micros)
}

pub(super) fn idle_timeout(row: &SqliteRow) -> Result<Option<Duration>, sqlx::Error> {
    let seconds: Option<i64> = row.try_get("idle_timeout_s")?;
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Ok(seconds.map(Duration::from_secs))
}

/// Returns whether the cause is a value in a row.
pub(super) fn is_of_a_row(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

pub(super) fn digest(bytes: &[u8]) -> Result<TokenDigest, sqlx::Error> {
    bytes.try_into().map(TokenDigest::from_bytes).map_err(decode)
}
