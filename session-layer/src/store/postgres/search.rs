//! The search for sessions, for operators' tools. It reads a bounded number of rows per statement,
//! so that it can go through a million sessions beside an application's requests.

use std::net::IpAddr;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;

use super::PostgresStore;
use super::errors;
use super::execute::statement;
use super::read::place;
use super::rows::{self, Facts, unexpected};
use crate::model::clock::Timestamp;
use crate::model::error::StoreError;
use crate::model::session::{ListCursor, SessionId};

/// The maximum of rows that one statement examines: about 20 ms.
const ROWS_AT_ONCE: i64 = 5_000;

/// The sessions that [`PostgresStore::search`] returns: those that match every set field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// The user. Only this user's rows are read then.
    pub user_id: Option<String>,
    /// The session with this id. Only its row is read then.
    pub id: Option<SessionId>,
    /// Created before this moment.
    pub created_before: Option<Timestamp>,
    /// Created at this moment or later.
    pub created_since: Option<Timestamp>,
    /// Last used before this moment.
    pub seen_before: Option<Timestamp>,
    /// Logged in from this address, or from one in this network.
    pub network: Option<Network>,
    /// With exactly this label.
    pub label: Option<String>,
    /// Whether the cookie outlives the browser.
    pub persistent: Option<bool>,
    /// Whether sessions that have ended are returned as well. Defaults to `false`.
    pub with_ended: bool,
}

/// An IP address, or a network such as `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// An error for a text that is neither an IP address nor a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address: pass an IP address such as 10.1.2.3, or a network such as 10.1.0.0/16")]
#[non_exhaustive]
pub struct ParseNetworkError;

impl std::str::FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseNetworkError)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| ParseNetworkError)?,
            None => longest,
        };
        if prefix > longest {
            return Err(ParseNetworkError);
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A session as it is stored, for operators. It has no token and no data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredSession {
    /// The public name.
    pub id: SessionId,
    /// The user.
    pub user_id: String,
    /// Whether the session is active.
    pub is_active: bool,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time of the user's last authentication.
    pub authenticated_at: Timestamp,
    /// The time of the last use, with the granularity of a touch.
    pub last_seen_at: Timestamp,
    /// The absolute timeout.
    pub expires_at: Timestamp,
    /// The idle timeout, if there is one.
    pub idle_timeout: Option<Duration>,
    /// Whether the cookie outlives the browser.
    pub persistent: bool,
    /// The label, if there is one.
    pub label: Option<String>,
    /// The address from which the user logged in, if it is known.
    pub ip: Option<String>,
    /// The user agent of the login, if it is known.
    pub user_agent: Option<String>,
    /// When the session was revoked. `None` for a session that a revoke-all has ended, until its
    /// row is marked.
    pub revoked_at: Option<Timestamp>,
    /// Who revoked it.
    pub ended_by: Option<String>,
    /// Why it was revoked.
    pub ended_reason: Option<String>,
}

/// One page of a search.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SearchPage {
    /// Postgres' clock at the read.
    pub now: Timestamp,
    /// The sessions of this page that match. There may be none, although others follow.
    pub sessions: Vec<StoredSession>,
    /// How many rows were examined.
    pub examined: u64,
    /// The place at which the next page begins, or `None` after the last one.
    pub next: Option<ListCursor>,
}

impl PostgresStore {
    /// Returns the next page of the sessions that match. It examines at most 5,000 rows, in about
    /// 20 ms, and takes no locks. It is for operators' tools, such as `sessionctl`, and not for
    /// requests.
    ///
    /// A user's sessions come newest first, and all others in the order of their ids. A session
    /// that is created during the search may be missing.
    ///
    /// # Errors
    /// [`StoreError`] in an outage of Postgres, or if our role lacks a right.
    pub async fn search(
        &self,
        filter: &SessionFilter,
        after: Option<ListCursor>,
    ) -> Result<SearchPage, StoreError> {
        let pages = &self.statements.search;
        let sql = match filter {
            SessionFilter { id: Some(_), .. } => &pages.of_id,
            SessionFilter { user_id: Some(_), .. } => &pages.of_user,
            _ => &pages.of_all,
        };
        let moment = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let read = |with_texts: bool| {
            self.read_for_change(move || {
                // All rows are read upwards, and a user's downwards.
                let (created_before, id) = match (filter.user_id.is_some(), after) {
                    (false, None) => ("infinity".to_owned(), Uuid::nil()),
                    (_, after) => place(after),
                };
                statement(sql)
                    .bind(filter.user_id.clone())
                    .bind(filter.id.map(|id| Uuid::from_bytes(*id.as_bytes())))
                    .bind(created_before)
                    .bind(id)
                    .bind(ROWS_AT_ONCE)
                    .bind(moment(filter.created_before))
                    .bind(moment(filter.created_since))
                    .bind(moment(filter.seen_before))
                    .bind(filter.network.map(|network| network.to_string()))
                    .bind(filter.label.clone())
                    .bind(filter.persistent)
                    .bind(filter.with_ended)
                    .bind(with_texts)
            })
        };
        let found = match read(true).await {
            // A text may not be in the database's encoding.
            Err(error) if errors::is_of_a_row(&error) => read(false).await?,
            found => found?,
        };
        let facts = Facts::of(&found)?;
        facts.sessions_visible()?;
        facts.users_visible()?;
        page(&found, facts.now).map_err(unexpected)
    }

    /// Returns about how many rows the table of sessions has, ended ones included, from Postgres'
    /// statistics. It is for the progress of a [`search`](Self::search).
    ///
    /// # Errors
    /// [`StoreError`] in an outage of Postgres.
    pub async fn estimated_rows(&self) -> Result<u64, StoreError> {
        let found = self.read_for_change(|| statement(&self.statements.estimated_rows)).await?;
        Facts::of(&found)?;
        let rows: i64 = found[0].try_get("estimated").map_err(unexpected)?;
        Ok(u64::try_from(rows).unwrap_or_default())
    }
}

fn page(found: &[PgRow], now: Timestamp) -> Result<SearchPage, sqlx::Error> {
    let first = &found[0];
    let examined: i64 = first.try_get("examined")?;
    let last = rows::session_id(first, "last_id")?;
    let next = match last.filter(|_| examined >= ROWS_AT_ONCE) {
        Some(id) => Some(ListCursor::new(rows::timestamp(first, "last_created_at")?, id)),
        None => None,
    };
    let sessions = found.iter().filter_map(|row| stored(row).transpose());
    Ok(SearchPage {
        now,
        sessions: sessions.collect::<Result<_, _>>()?,
        examined: examined.unsigned_abs(),
        next,
    })
}

fn stored(row: &PgRow) -> Result<Option<StoredSession>, sqlx::Error> {
    let Some(id) = rows::session_id(row, "id")? else {
        return Ok(None);
    };
    let timestamp = |column| rows::timestamp(row, column);
    Ok(Some(StoredSession {
        id,
        user_id: row.try_get::<Option<String>, _>("user_id")?.unwrap_or_default(),
        is_active: row.try_get("alive")?,
        created_at: timestamp("created_at")?,
        authenticated_at: timestamp("authenticated_at")?,
        last_seen_at: timestamp("last_seen_at")?,
        expires_at: timestamp("expires_at")?,
        idle_timeout: rows::idle_timeout(row)?,
        persistent: row.try_get("persistent")?,
        label: row.try_get("label")?,
        ip: row.try_get("ip")?,
        user_agent: row.try_get("user_agent")?,
        revoked_at: rows::optional_timestamp(row, "revoked_at")?,
        ended_by: row.try_get("ended_by")?,
        ended_reason: row.try_get("ended_reason")?,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    #[test]
    fn network_is_an_address_with_an_optional_prefix() {
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("::1", "::1/128"),
            ("fd00::/8", "fd00::/8"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
        for text in ["", "10.1", "10.1.2.3/33", "::1/129", "10.1.2.3/", "host", "10.1.2.3/-1"] {
            assert_eq!(text.parse::<Network>(), Err(ParseNetworkError), "{text}");
        }
    }
}
