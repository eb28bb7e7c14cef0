//! Reads. Each is one statement, and its reply includes the facts that make it authoritative.

use std::error::Error as _;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;

use super::PostgresStore;
use super::errors;
use super::execute::{Statement, Timeouts, statement};
use super::rows::{self, DIGESTS, Facts, YEAR_ONE, unexpected};
use super::statements::PerTarget;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::{ListCursor, SessionId, SessionPage, SessionSummary};
use crate::model::token::TokenDigest;
use crate::store::{
    JournalChange, JournalPage, JournalPosition, JournalRead, JournalRow, ReadResult, Row, Target,
    UnreadableRow,
};

/// The maximum of rows in a page of the journal. A node applies a page before it reads the next
/// one, so this limits its memory to about 2 MiB.
const JOURNAL_PAGE: i64 = 5_000;
/// The maximum of rows of one transaction, in full pages, that a read returns one by one. One row
/// that stands for all earlier changes replaces the rest. Reading 300,000 rows took 3 s. A node
/// that takes longer than D is partitioned.
const MOST_OF_TRANSACTION: usize = 50_000;
/// The deadline of a page: half of the default staleness bound D. An idle server needs about 20 ms.
pub(super) const JOURNAL_PAGE_DEADLINE: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Reads digests in one statement. If Postgres fails at one of the rows, it halves the read
    /// until that row is alone. Such a row has a text that is not in the database's encoding, or a
    /// damaged page.
    pub(super) async fn load_all(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let mut parts = vec![digests];
        let mut all: Option<ReadResult> = None;
        while let Some(part) = parts.pop() {
            let loaded = match self.load_once(part).await {
                Err(error) if errors::is_of_a_row(&error) && !part.is_empty() => {
                    let (first, rest) = part.split_at(part.len() / 2);
                    if let ([], [digest]) = (first, rest) {
                        self.load_unreadable(*digest, &error).await?
                    } else {
                        parts.extend([rest, first]);
                        continue;
                    }
                }
                loaded => loaded?,
            };
            all = Some(match all {
                None => loaded,
                Some(before) => joined(before, loaded)?,
            });
        }
        all.ok_or_else(|| unexpected(sqlx::Error::RowNotFound))
    }

    /// Returns the result for a digest at whose row Postgres fails.
    async fn load_unreadable(
        &self,
        digest: TokenDigest,
        error: &StoreError,
    ) -> Result<ReadResult, StoreError> {
        let query = || of_some(&self.statements.digests, &Target::Token(digest));
        let found = self.read_over(&self.reading, self.validations(), query).await?;
        let id = found.iter().find_map(|row| rows::session_id(row, "id").ok()?);
        let reason = error.source().map_or_else(String::new, ToString::to_string);
        let mut loaded = self.load_once(&[]).await?;
        loaded.rows = vec![Row::Unreadable(UnreadableRow::new(id, reason))];
        Ok(loaded)
    }

    async fn load_once(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let wanted: Vec<Vec<u8>> = digests.iter().map(|d| d.as_bytes().to_vec()).collect();
        let load = || statement(&self.statements.load).bind(wanted.clone());
        let found = self.read_over(&self.reading, self.validations(), load).await?;
        let facts = Facts::of(&found)?;
        // Each digest has its row, even if no session has it. If one lacks, this is the reply to
        // another statement (a pooler in transaction mode mixes up statements). It does not prove
        // that any session has ended.
        let mut results: Vec<Option<Row>> = vec![None; digests.len()];
        for row in &found {
            // If a digest is present in one session and previous in another, the present one comes
            // first and counts. No generated token has such a digest.
            if let Some(result) = place_of(row, &mut results).map_err(unexpected)?
                && result.is_none()
            {
                *result = Some(loaded(row, &facts)?);
            }
        }
        Ok(ReadResult {
            now: facts.now,
            store_id: facts.store_id()?,
            xmin: facts.xmin,
            rows: results
                .into_iter()
                .map(|result| result.ok_or_else(|| unexpected(sqlx::Error::RowNotFound)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Returns the timeouts of a validation's read and touch. It is in flight here for as long as
    /// it runs in Postgres, so that the bulkhead limits the reads there. Its caller may have left
    /// by then. With a deadline of over a second, the engine's limit comes first, which is the
    /// duration of a lease.
    pub(super) fn validations(&self) -> Timeouts {
        let connection = self.read_deadline;
        Timeouts { connection, reply: connection }
    }

    /// Reads a page of a user's list, and one session more, to know whether another page follows.
    pub(super) async fn list_of(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        let most = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let query = |with_texts: bool| {
            self.read_for_change(move || {
                let (before, id) = place(after);
                statement(&self.statements.list)
                    .bind(user_id.to_owned())
                    .bind(before)
                    .bind(id)
                    .bind(most)
                    .bind(with_texts)
            })
        };
        let found = match query(true).await {
            // A label may not be in the database's encoding. If it was the user id, this fails too.
            Err(error) if errors::is_of_a_row(&error) => query(false).await?,
            found => found?,
        };
        let facts = Facts::of(&found)?;
        // An incomplete list is as wrong as an empty one.
        facts.sessions_visible()?;
        facts.users_visible()?;
        let listed = found.iter().map(listed).collect();
        Ok(SessionPage::of_rows(listed, limit))
    }

    /// Reads the digests of one session. Those of all of a user's sessions are read after their
    /// end, in `revoke.rs`.
    pub(super) async fn digests_of(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        if let Target::User { .. } = target {
            return Ok(Vec::new());
        }
        let found = self.read_for_change(|| of_some(&self.statements.digests, target)).await?;
        let facts = Facts::of(&found)?;
        let mut digests = Vec::new();
        for row in &found {
            rows::gather(&mut digests, row, &DIGESTS).map_err(unexpected)?;
        }
        if digests.is_empty() {
            facts.sessions_visible()?;
            // Only a server that takes changes can prove that there is nothing to change. After a
            // cut-over the old one may be read-only.
            if found[0].try_get("read_only").map_err(unexpected)? {
                return Err(errors::read_only());
            }
        }
        self.lives.confirm_before_change(&found).await?;
        Ok(rows::each_once(digests))
    }

    /// Reads one page of the journal.
    ///
    /// A page is a statement with a snapshot of its own. The read as a whole has seen what its
    /// *first* page's snapshot shows. Rows that become visible later come with the next read,
    /// because that snapshot does not show their transactions.
    pub(super) async fn read_journal(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let read = self.read_page(position).await?;
        match position {
            // The position means nothing in another life, whose journal is read from its start.
            Some(position) if position.store_id != read.store_id => self.read_page(None).await,
            _ => Ok(read),
        }
    }

    async fn read_page(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let seen = position.map(|position| position.seen.clone());
        let page = position.and_then(|position| position.page.clone());
        let (after_xid, after_id) = page.as_ref().map_or((0, 0), |page| page.after);
        let timeouts = Timeouts { connection: JOURNAL_PAGE_DEADLINE, reply: JOURNAL_PAGE_DEADLINE };
        let snapshot = seen.as_deref().filter(|seen| !seen.is_empty());
        let query = |with_users: bool| {
            self.read_over(&self.journal, timeouts, move || {
                statement(&self.statements.journal)
                    .bind(snapshot.map(str::to_owned))
                    .bind(after_xid.to_string())
                    .bind(after_id)
                    .bind(JOURNAL_PAGE)
                    .bind(with_users)
            })
        };
        if self.lives.take_suspicion()
            && let Ok(suspect) = self.journal.acquire().await
        {
            drop(suspect);
        }
        let found = match query(true).await {
            // A user id that is not in the database's encoding must not stop the journal.
            Err(error) if errors::is_of_a_row(&error) => query(false).await?,
            found => found?,
        };
        let facts = Facts::of(&found)?;
        facts.journal_visible()?;
        let store_id = facts.store_id()?;
        self.lives.journal_is_of(store_id);
        let mut rows = Vec::with_capacity(found.len());
        let mut last = None;
        for row in &found {
            if let Some(entry) = row.try_get::<Option<i64>, _>("entry").map_err(unexpected)? {
                let row = journal_row(row).map_err(unexpected)?;
                last = Some((row.xid, entry));
                rows.push(row);
            }
        }
        let now_seen: String = found[0].try_get("seen").map_err(unexpected)?;
        let is_full = usize::try_from(JOURNAL_PAGE).is_ok_and(|most| rows.len() >= most);
        let next = match last {
            Some(after) if is_full => JournalPosition {
                store_id,
                seen: seen.unwrap_or_default(),
                page: Some(next_page(&mut rows, after, page, &now_seen)),
            },
            _ => JournalPosition {
                store_id,
                seen: page.map_or_else(|| now_seen.into(), |page| page.snapshot),
                page: None,
            },
        };
        Ok(JournalRead { store_id, rows, next, floor: facts.journal_floor, now: facts.now })
    }

    pub(super) async fn check_authoritative(&self) -> Result<(), StoreError> {
        let found = self
            .read_over(&self.connections, self.validations(), || statement(&self.statements.probe))
            .await?;
        let facts = Facts::of(&found)?;
        facts.sessions_visible()?;
        facts.users_visible()
    }
}

/// Returns the beginning of the page after a full one. `before` is the beginning of the full one.
///
/// The rest of a transaction with very many rows is skipped. One row then stands for all earlier
/// changes, as the row of a TRUNCATE does.
fn next_page(
    rows: &mut Vec<JournalRow>,
    mut after: (u64, i64),
    before: Option<JournalPage>,
    now_seen: &str,
) -> JournalPage {
    let (xid, _) = after;
    let here = rows.iter().rev().take_while(|row| row.xid == xid).count();
    let mut of_transaction = here;
    if let Some(before) = &before
        && before.after.0 == xid
    {
        of_transaction += before.of_transaction;
    }
    if of_transaction >= MOST_OF_TRANSACTION {
        after.1 = i64::MAX;
        rows.push(JournalRow { xid, change: JournalChange::All });
    }
    JournalPage {
        snapshot: before.map_or_else(|| now_seen.into(), |before| before.snapshot),
        after,
        of_transaction,
    }
}

/// Returns a statement about one session, with the target bound as $1 and $2.
pub(super) fn of_some(statements: &PerTarget, target: &Target) -> Statement {
    let by_id = |id: &SessionId, owner: Option<String>| {
        statement(&statements.id).bind(Uuid::from_bytes(*id.as_bytes())).bind(owner)
    };
    match target {
        Target::Token(digest) => {
            statement(&statements.token).bind(digest.as_bytes().to_vec()).bind(None::<String>)
        }
        Target::Id(id) => by_id(id, None),
        Target::OwnedBy(id, owner) => by_id(id, Some(owner.clone())),
        Target::Ids(ids) => {
            let ids: Vec<Uuid> = ids.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect();
            statement(&statements.ids).bind(ids).bind(None::<String>)
        }
        Target::User { .. } => {
            unreachable!("all of a user's sessions have statements of their own")
        }
    }
}

/// Returns the place in `results` of the digest that this row belongs to.
fn place_of<'a>(
    row: &PgRow,
    results: &'a mut [Option<Row>],
) -> Result<Option<&'a mut Option<Row>>, sqlx::Error> {
    let number: Option<i64> = row.try_get("n")?;
    Ok(number.and_then(|n| usize::try_from(n - 1).ok()).and_then(|at| results.get_mut(at)))
}

/// Joins two results. The joined result is as old as the older one.
fn joined(mut first: ReadResult, second: ReadResult) -> Result<ReadResult, StoreError> {
    if first.store_id != second.store_id {
        return Err(StoreError::new(
            StoreErrorKind::NotAuthoritative,
            "Postgres was restarted or replaced during a read: try again",
        ));
    }
    first.now = first.now.min(second.now);
    first.xmin = first.xmin.min(second.xmin);
    first.rows.extend(second.rows);
    Ok(first)
}

fn loaded(row: &PgRow, facts: &Facts) -> Result<Row, StoreError> {
    let Some(id) = rows::session_id(row, "id").map_err(unexpected)? else {
        facts.sessions_visible()?;
        return Ok(Row::Absent);
    };
    facts.epoch_visible(row)?;
    Ok(decide(row)
        .unwrap_or_else(|error| Row::Unreadable(UnreadableRow::new(Some(id), error.to_string()))))
}

/// Returns the state of the session in a row. The end of the session is checked first, because the
/// rest of such a row need not be readable.
fn decide(row: &PgRow) -> Result<Row, sqlx::Error> {
    if row.try_get("revoked")? {
        return Ok(Row::Revoked);
    }
    if !row.try_get::<bool, _>("in_time")? {
        return Ok(Row::Absent);
    }
    Ok(Row::Alive {
        session: rows::session(row)?.ok_or(sqlx::Error::RowNotFound)?,
        user_epoch: row.try_get("user_epoch")?,
        previous_until: rows::optional_timestamp(row, "counts_until")?,
    })
}

/// Returns the moment and the id after which a page begins. A moment that was cut at its lower end
/// when it was read counts as the earliest of all. Otherwise a page of such rows would be followed
/// by itself.
pub(super) fn place(after: Option<ListCursor>) -> (String, Uuid) {
    let Some(cursor) = after else {
        return ("infinity".to_owned(), Uuid::max());
    };
    let moment = if cursor.created_at() <= YEAR_ONE {
        "-infinity".to_owned()
    } else {
        cursor.created_at().to_string()
    };
    (moment, Uuid::from_bytes(*cursor.id().as_bytes()))
}

/// Returns `None` without a session, and for an unreadable row, which grants no access.
fn listed(row: &PgRow) -> Option<SessionSummary> {
    let id = rows::session_id(row, "id").ok()??;
    let listed = summary(row, id);
    if let Err(error) = &listed {
        let row = UnreadableRow::new(Some(id), error.to_string());
        tracing::warn!(error = %row, "a list lacks a session, because its row cannot be read");
    }
    listed.ok()
}

fn summary(row: &PgRow, id: SessionId) -> Result<SessionSummary, sqlx::Error> {
    // An operator may have written a network. The address is only shown.
    let ip: Option<String> = row.try_get("ip")?;
    Ok(SessionSummary {
        id,
        created_at: rows::timestamp(row, "created_at")?,
        authenticated_at: rows::timestamp(row, "authenticated_at")?,
        last_seen_at: rows::timestamp(row, "last_seen_at")?,
        expires_at: rows::timestamp(row, "expires_at")?,
        idle_timeout: rows::idle_timeout(row)?,
        persistent: row.try_get("persistent")?,
        label: row.try_get("label")?,
        ip: ip.and_then(|ip| ip.parse().ok()),
        user_agent: row.try_get("user_agent")?,
    })
}

/// Decodes a journal row. A row with missing or unknown values ends more rather than less: the
/// session, or all sessions.
fn journal_row(row: &PgRow) -> Result<JournalRow, sqlx::Error> {
    let xid: &str = row.try_get("xid")?;
    let xid = xid.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let kind: Option<&str> = row.try_get("kind").unwrap_or_default();
    let change = if kind == Some("user") {
        let user_id: Option<String> = row.try_get("user_id").unwrap_or_default();
        let epoch: Option<i64> = row.try_get("user_epoch")?;
        user_id.zip(epoch).map(|(user_id, epoch)| JournalChange::User { user_id, epoch })
    } else if let Some(id) = rows::session_id(row, "session_id")? {
        let mut digests = Vec::new();
        rows::gather(&mut digests, row, &["digest", "previous_digest"])?;
        let version: Option<i64> = row.try_get("version")?;
        Some(JournalChange::Session {
            id,
            digests: rows::each_once(digests),
            least_version: version.filter(|_| kind == Some("updated")),
        })
    } else {
        None
    };
    Ok(JournalRow { xid, change: change.unwrap_or(JournalChange::All) })
}
