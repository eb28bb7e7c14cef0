//! Reads: each one statement, each answered with what makes it the truth.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use tokio::time::Instant;

use super::PostgresStore;
use super::ask::{Patience, Statement, statement};
use super::connection::OPENING;
use super::errors;
use super::rows::{self, DIGESTS, Facts, unexpected};
use super::statements::PerTarget;
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::session::ListedSession;
use crate::store::{JournalPosition, JournalRead, JournalRow, Loaded, Row, Target};
use crate::token::TokenDigest;

/// How long a read of the journal may take at most: some ten million rows.
pub(super) const JOURNAL_AT_MOST: Duration = Duration::from_secs(30);

impl PostgresStore {
    pub(super) async fn load_all(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let wanted: Vec<Vec<u8>> = digests.iter().map(|d| d.as_bytes().to_vec()).collect();
        let load = || statement(&self.statements.load).bind(wanted.clone());
        let found = self
            .read_over(&self.reading, self.validations(), load)
            .await?;
        let facts = Facts::of(&found)?;
        // Each digest has its row, also where no session has it. Where one lacks, something else was answered (a
        // pooler in transaction mode mixes up statements): that says of no session that it is over.
        let mut answers: Vec<Option<Row>> = vec![None; digests.len()];
        for row in &found {
            // Where a digest is one session's present and another's previous one (which no token of
            // ours is), the present comes first and counts.
            if let Some(answer) = place(row, &mut answers).map_err(unexpected)?
                && answer.is_none()
            {
                *answer = Some(loaded(row, &facts)?);
            }
        }
        Ok(Loaded {
            now: facts.now,
            store_id: facts.store_id,
            xmin: facts.xmin,
            rows: answers
                .into_iter()
                .map(|answer| answer.ok_or_else(|| unexpected(sqlx::Error::RowNotFound)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// A read of validations, and a touch: in flight here for as long as it is at work there, so that no more are at
    /// work than the bulkhead lets in. (Who asked for it has left by then. Set to over a second, the driver's outer
    /// deadline comes first, which is that of a lease.)
    pub(super) fn validations(&self) -> Patience {
        let connection = self.read_deadline;
        Patience::ForEach {
            connection,
            answer: connection,
        }
    }

    pub(super) async fn list_of(&self, user_id: &str) -> Result<Vec<ListedSession>, StoreError> {
        let found = self
            .read_for_change(|| statement(&self.statements.list).bind(user_id.to_owned()))
            .await?;
        let facts = Facts::of(&found)?;
        // A list that lacks some is as wrong as an empty one.
        facts.no_session()?;
        facts.no_user()?;
        found
            .iter()
            .filter_map(|row| listed(row).transpose())
            .collect::<Result<_, _>>()
            .map_err(unexpected)
    }

    pub(super) async fn digests_of(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        let ask = || match target {
            Target::User { user_id, .. } => {
                statement(&self.statements.digests_of_user).bind(user_id.clone())
            }
            one => of_one(&self.statements.digests, one),
        };
        let found = self.read_for_change(ask).await?;
        let facts = Facts::of(&found)?;
        let mut digests = Vec::new();
        for row in &found {
            rows::gather(&mut digests, row, &DIGESTS).map_err(unexpected)?;
        }
        if digests.is_empty() || matches!(target, Target::User { .. }) {
            facts.no_session()?;
        }
        Ok(rows::each_once(digests))
    }

    /// A read that does not end in time is tried again with twice the time: somebody has changed a million
    /// sessions at once, and what was not read does not get less. A connection that is dead costs the first,
    /// short one.
    pub(super) async fn read_journal(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let began = Instant::now();
        let read = self.read_journal_once(position).await;
        let next = match &read {
            Ok(_) => began.elapsed() * 2,
            Err(error) if error.kind() == StoreErrorKind::TimedOut => self.journal_patience() * 2,
            Err(_) => return read,
        };
        let next = next.min(JOURNAL_AT_MOST).as_millis();
        let next = u64::try_from(next).unwrap_or(u64::MAX);
        self.journal_patience.store(next, Ordering::Relaxed);
        read
    }

    fn journal_patience(&self) -> Duration {
        let learnt = Duration::from_millis(self.journal_patience.load(Ordering::Relaxed));
        learnt.max(self.read_deadline)
    }

    async fn read_journal_once(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let patience = self.journal_patience();
        let from = |xid: u64| self.journal_rows(xid, patience);
        let mut found = from(position.map_or(0, |position| position.xid)).await?;
        let mut facts = Facts::of(&found)?;
        let mut here = life(&found)?;
        if position.is_some_and(|at| (at.system, at.life) != here) {
            found = from(0).await?;
            facts = Facts::of(&found)?;
            here = life(&found)?;
        }
        facts.whole_journal()?;
        let (system, life) = here;
        Ok(JournalRead {
            next: JournalPosition {
                system,
                life,
                xid: facts.xmin,
            },
            rows: found
                .iter()
                .filter_map(|row| journal_row(row).transpose())
                .collect::<Result<_, _>>()
                .map_err(unexpected)?,
            floor: facts.journal_floor(system),
            now: facts.now,
        })
    }

    /// A Postgres that does not tell its timeline, or its last checkpoint, is asked for the connection instead: then
    /// each new one reads the journal from its start, as those are that a promoted standby or a recovered Postgres gets.
    async fn journal_rows(&self, xid: u64, patience: Duration) -> Result<Vec<PgRow>, StoreError> {
        let ask = |sql| {
            let xid = xid.to_string();
            let patience = Patience::ForEach {
                connection: patience.min(OPENING),
                answer: patience,
            };
            self.read_over(&self.journal, patience, move || {
                statement(sql).bind(xid.clone())
            })
        };
        let of_connection = &self.statements.journal_of_connection;
        if self.life_untold.load(Ordering::Relaxed) {
            return ask(of_connection).await;
        }
        match ask(&self.statements.journal).await {
            Err(error) if errors::is_of_a_function(&error) => {
                // Where it was something else that was denied, this is refused like the first.
                let found = ask(of_connection).await?;
                if !self.life_untold.swap(true, Ordering::Relaxed) {
                    tracing::info!(
                        %error,
                        "Postgres does not tell its timeline and its last checkpoint: each new connection reads the journal from its start"
                    );
                }
                Ok(found)
            }
            answer => answer,
        }
    }

    pub(super) async fn probe_truth(&self) -> Result<(), StoreError> {
        let found = self.read(|| statement(&self.statements.probe)).await?;
        let facts = Facts::of(&found)?;
        facts.no_session()?;
        facts.no_user()
    }
}

/// A statement about one session, with the target bound as $1 and $2.
pub(super) fn of_one(statements: &PerTarget, target: &Target) -> Statement {
    let by_id = |id: &crate::session::SessionId, owner: Option<String>| {
        statement(&statements.id)
            .bind(Uuid::from_bytes(*id.as_bytes()))
            .bind(owner)
    };
    match target {
        Target::Token(digest) => statement(&statements.token)
            .bind(digest.as_bytes().to_vec())
            .bind(None::<String>),
        Target::Id(id) => by_id(id, None),
        Target::OwnedBy(id, owner) => by_id(id, Some(owner.clone())),
        Target::User { .. } => {
            unreachable!("all of a user's sessions have statements of their own")
        }
    }
}

/// The place in `answers` of the digest that this row answers.
fn place<'a>(
    row: &PgRow,
    answers: &'a mut [Option<Row>],
) -> Result<Option<&'a mut Option<Row>>, sqlx::Error> {
    let number: Option<i64> = row.try_get("n")?;
    Ok(number
        .and_then(|n| usize::try_from(n - 1).ok())
        .and_then(|at| answers.get_mut(at)))
}

fn loaded(row: &PgRow, facts: &Facts) -> Result<Row, StoreError> {
    let Some(session) = rows::session(row).map_err(unexpected)? else {
        facts.no_session()?;
        return Ok(Row::Absent);
    };
    facts.compared(row)?;
    if row.try_get("revoked").map_err(unexpected)? {
        return Ok(Row::Revoked);
    }
    if !row.try_get::<bool, _>("in_time").map_err(unexpected)? {
        return Ok(Row::Absent);
    }
    let previous_until: Option<i64> = row.try_get("counts_until").map_err(unexpected)?;
    Ok(Row::Alive {
        session,
        previous_until: previous_until.map(Timestamp::from_micros),
    })
}

fn listed(row: &PgRow) -> Result<Option<ListedSession>, sqlx::Error> {
    let Some(session) = rows::session(row)? else {
        return Ok(None);
    };
    let mut listed = ListedSession::new(session);
    listed.label = row.try_get("label")?;
    listed.user_agent = row.try_get("user_agent")?;
    // What a person wrote there may be a network; it is only shown.
    listed.ip = row
        .try_get::<Option<String>, _>("ip")?
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    Ok(Some(listed))
}

/// Which server answered, and in which life: its system identifier and its timeline, or what stands for it.
fn life(rows: &[PgRow]) -> Result<(u64, u64), StoreError> {
    let row = rows
        .first()
        .ok_or_else(|| unexpected(sqlx::Error::RowNotFound))?;
    let system: i64 = row.try_get("system").map_err(unexpected)?;
    let life: i64 = row.try_get("life").map_err(unexpected)?;
    Ok((system.cast_unsigned(), life.cast_unsigned()))
}

fn journal_row(row: &PgRow) -> Result<Option<JournalRow>, sqlx::Error> {
    if row.try_get::<Option<i64>, _>("entry")?.is_none() {
        return Ok(None);
    }
    let mut digests = Vec::new();
    rows::gather(&mut digests, row, &["digest", "previous_digest"])?;
    let kind: String = row.try_get("kind")?;
    Ok(Some(JournalRow {
        xid: rows::transaction(row, "xid")?,
        at: Timestamp::from_micros(row.try_get("at")?),
        session_id: rows::session_id(row, "session_id")?,
        digests: rows::each_once(digests),
        // A kind that only a later version knows ends the session: the safe side.
        least_version: if kind == "updated" {
            row.try_get("version")?
        } else {
            None
        },
    }))
}
