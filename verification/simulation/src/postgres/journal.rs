//! The journal, its reads and its purge.

use std::time::Duration;

use session_layer::Timestamp;
use session_layer::error::StoreError;
use session_layer::store::{JournalPosition, JournalRead, JournalRow};

use super::change::snapshot;
use super::{Postgres, STORE, clock};
use crate::mutants::Mistake;
use crate::world::Millis;

/// A mutant that reads by time reads this much again.
const OVERLAP: Duration = session_layer::defaults::DEFAULT_JOURNAL_INTERVAL;

/// A row, and when its transaction began.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) row: JournalRow,
    pub(super) at: Timestamp,
}

/// The table `session_journal`.
#[derive(Debug, Default)]
pub(super) struct Journal {
    rows: Vec<Logged>,
    /// Rows of lower transactions may have been deleted.
    floor: u64,
}

impl Journal {
    pub(super) fn has_row_after(&self, xid: u64) -> bool {
        self.rows.iter().any(|logged| logged.row.xid > xid)
    }

    /// Adds the rows of a transaction that commits.
    pub(super) fn append(&mut self, rows: &mut Vec<Logged>) {
        self.rows.append(rows);
    }

    fn read(&self, seen: String, now: Millis, wanted: impl Fn(&Logged) -> bool) -> JournalRead {
        let wanted = self.rows.iter().filter(|row| wanted(row));
        JournalRead {
            store_id: STORE,
            rows: wanted.map(|logged| logged.row.clone()).collect(),
            next: JournalPosition { store_id: STORE, seen: seen.into(), page: None },
            floor: self.floor,
            now: clock(now),
        }
    }
}

impl Postgres {
    /// Reads the rows that the position does not show.
    pub(crate) fn journal_since(
        &self,
        position: Option<&JournalPosition>,
        now: Millis,
    ) -> Result<JournalRead, StoreError> {
        self.check_up()?;
        self.check_visible()?;
        let seen = position.and_then(|position| snapshot(&position.seen));
        Ok(self.journal.read(self.snapshot(), now, |logged| {
            let Some((running, next)) = &seen else {
                return true;
            };
            logged.row.xid >= *next || running.contains(&logged.row.xid)
        }))
    }

    /// Reads by time, as a mutant: the rows since the last read, and those of one interval before.
    pub(crate) fn journal_since_a_time(
        &self,
        position: Option<&JournalPosition>,
        now: Millis,
    ) -> Result<JournalRead, StoreError> {
        self.check_up()?;
        self.check_visible()?;
        let since = position.and_then(|position| position.seen.parse().ok());
        let since = since.map(clock);
        Ok(self.journal.read(now.to_string(), now, |logged| {
            since.is_none_or(|since| logged.at.after(OVERLAP) >= since)
        }))
    }

    /// Removes all rows, and raises the floor above them in one transaction. It keeps the rows of
    /// transactions from the oldest running one on. Otherwise every new entry would be below the
    /// floor.
    pub(crate) fn purge(&mut self, mistake: Option<Mistake>) {
        if self.check_up().is_err() {
            return;
        }
        self.next_id();
        let xmin = self.xmin();
        let past_the_running = mistake == Some(Mistake::PurgesPastTheRunning);
        let goes = |logged: &Logged| logged.row.xid < xmin || past_the_running;
        let gone = self.journal.rows.iter().filter(|logged| goes(logged));
        let last = gone.map(|logged| logged.row.xid).max();
        self.journal.rows.retain(|row| !goes(row));
        if mistake == Some(Mistake::PurgeLeavesTheFloor) {
            return;
        }
        let above = last.map_or(0, |last| xmin.min(last + 1));
        self.journal.floor = self.journal.floor.max(above);
    }
}
