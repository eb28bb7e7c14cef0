//! A row, and whether the session in it is alive.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::clock::Timestamp;
use crate::session::{ListedSession, Session, SessionParts};
use crate::store::Target;
use crate::token::TokenDigest;

/// One row of `sessions`, with its user's epoch.
pub(super) struct Record {
    pub(super) session: Session,
    pub(super) token: TokenDigest,
    pub(super) previous: Option<TokenDigest>,
    pub(super) previous_until: Option<Timestamp>,
    label: Option<String>,
    ip: Option<String>,
    user_agent: Option<String>,
    user_epoch: i64,
    epoch: i64,
    revoked: bool,
}

/// `sessions` as [`Record`]s, where `$condition` holds.
macro_rules! records {
    ($condition:literal) => {
        concat!(
            "SELECT s.*, coalesce(u.epoch, 0) AS epoch FROM sessions s \
             LEFT JOIN session_users u ON u.user_id = s.user_id WHERE ",
            $condition
        )
    };
}

const BY_TOKEN: &str = records!("s.token_digest = $1");
const BY_PREVIOUS: &str = records!("s.previous_digest = $1");
const BY_ID: &str = records!("s.id = $1");
const BY_USER: &str = records!("s.user_id = $1 ORDER BY s.created_at DESC, s.rowid DESC");

impl Record {
    pub(super) async fn by_token(
        connection: &mut SqliteConnection,
        digest: TokenDigest,
    ) -> Result<Option<Self>, sqlx::Error> {
        let found = sqlx::query(BY_TOKEN).bind(digest.as_bytes().to_vec());
        let row = found.fetch_optional(connection).await?;
        row.as_ref().map(Self::read).transpose()
    }

    /// Whether it still counts or not.
    pub(super) async fn by_previous(
        connection: &mut SqliteConnection,
        digest: TokenDigest,
    ) -> Result<Option<Self>, sqlx::Error> {
        let found = sqlx::query(BY_PREVIOUS).bind(digest.as_bytes().to_vec());
        let row = found.fetch_optional(connection).await?;
        row.as_ref().map(Self::read).transpose()
    }

    pub(super) async fn by_id(
        connection: &mut SqliteConnection,
        id: String,
    ) -> Result<Option<Self>, sqlx::Error> {
        let found = sqlx::query(BY_ID).bind(id);
        let row = found.fetch_optional(connection).await?;
        row.as_ref().map(Self::read).transpose()
    }

    /// Newest first.
    pub(super) async fn by_user(
        connection: &mut SqliteConnection,
        user_id: String,
    ) -> Result<Vec<Self>, sqlx::Error> {
        let found = sqlx::query(BY_USER).bind(user_id);
        let rows = found.fetch_all(connection).await?;
        rows.iter().map(Self::read).collect()
    }

    /// The one that `digest` stands for now, as its token or, within the grace, as the previous one.
    pub(super) async fn counting(
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
            Target::Token(digest) => Self::counting(connection, *digest, now).await?,
            Target::Id(id) => Self::by_id(connection, id.to_string()).await?,
            Target::OwnedBy(id, owner) => Self::by_id(connection, id.to_string())
                .await?
                .filter(|record| record.session.user_id() == owner),
            Target::User { user_id, .. } => {
                return Self::by_user(connection, user_id.clone()).await;
            }
        };
        Ok(one.into_iter().collect())
    }

    fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let moment = |column| row.try_get(column).map(Timestamp::from_micros);
        let idle: Option<i64> = row.try_get("idle_timeout_s")?;
        let id: String = row.try_get("id")?;
        let data = RawValue::from_string(row.try_get("data")?).map_err(decode)?;
        let parts = SessionParts {
            id: id.parse().map_err(decode)?,
            user_id: row.try_get("user_id")?,
            version: row.try_get("version")?,
            created_at: moment("created_at")?,
            authenticated_at: moment("authenticated_at")?,
            last_seen_at: moment("last_seen_at")?,
            expires_at: moment("expires_at")?,
            idle_timeout: idle
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
            persistent: row.try_get("persistent")?,
            data,
        };
        let previous: Option<Vec<u8>> = row.try_get("previous_digest")?;
        let previous_until: Option<i64> = row.try_get("previous_until")?;
        Ok(Self {
            session: parts.into(),
            token: digest(&row.try_get::<Vec<u8>, _>("token_digest")?)?,
            previous: previous.as_deref().map(digest).transpose()?,
            previous_until: previous_until.map(Timestamp::from_micros),
            label: row.try_get("label")?,
            ip: row.try_get("ip")?,
            user_agent: row.try_get("user_agent")?,
            user_epoch: row.try_get("user_epoch")?,
            epoch: row.try_get("epoch")?,
            revoked: row.try_get::<Option<i64>, _>("revoked_at")?.is_some(),
        })
    }

    /// It was ended: by itself, or with all of the user's.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked || self.user_epoch < self.epoch
    }

    pub(super) fn is_alive(&self, now: Timestamp) -> bool {
        let idle = self.session.idle_timeout();
        !self.is_revoked()
            && self.session.expires_at() > now
            && idle.is_none_or(|idle| self.session.last_seen_at().after(idle) > now)
    }

    pub(super) fn digests(&self) -> Vec<TokenDigest> {
        std::iter::once(self.token).chain(self.previous).collect()
    }

    pub(super) fn listed(self) -> ListedSession {
        let mut listed = ListedSession::new(self.session);
        listed.label = self.label;
        listed.ip = self.ip.and_then(|ip| ip.parse::<IpAddr>().ok());
        listed.user_agent = self.user_agent;
        listed
    }
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

pub(super) fn digest(bytes: &[u8]) -> Result<TokenDigest, sqlx::Error> {
    bytes
        .try_into()
        .map(TokenDigest::from_bytes)
        .map_err(decode)
}
