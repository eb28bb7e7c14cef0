//! The journal: what was changed, since when, and from where on it is kept.

use std::time::Duration;

use session_layer::store::{JournalPosition, JournalRead, JournalRow};
use session_layer::{StoreError, Timestamp};

use super::{Postgres, clock};
use crate::mutants::Mistake;
use crate::world::Millis;

/// A mutant that reads by time reads so much again.
const OVERLAP: Duration = session_layer::DEFAULT_JOURNAL_INTERVAL;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Journal {
    rows: Vec<Written>,
    /// Nothing before is kept.
    floor: u64,
}

/// A row, and when it was written: not when it was committed.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) at: Timestamp,
    pub(super) row: JournalRow,
}

impl Journal {
    pub(super) fn has_row_after(&self, xid: u64) -> bool {
        self.rows.iter().any(|written| written.row.xid > xid)
    }

    /// A transaction's rows, with its COMMIT.
    pub(super) fn append(&mut self, rows: &mut Vec<Written>) {
        self.rows.append(rows);
    }

    fn read(&self, next: u64, wanted: impl Fn(&Written) -> bool) -> JournalRead {
        let wanted = self.rows.iter().filter(|written| wanted(written));
        JournalRead {
            rows: wanted.map(|written| written.row.clone()).collect(),
            next: JournalPosition {
                system: 1,
                timeline: 1,
                xid: next,
            },
            floor: self.floor,
        }
    }
}

impl Postgres {
    /// Rows and the next position are of one snapshot.
    pub(crate) fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.answers()?;
        self.shown()?;
        let from = position.map_or(0, |position| position.xid);
        Ok(self
            .journal
            .read(self.xmin(), |written| written.row.xid >= from))
    }

    /// A mutant's: what was written since the last read, and a little before. Its position is a time.
    pub(crate) fn journal_since_a_time(
        &self,
        position: Option<JournalPosition>,
        now: Millis,
    ) -> Result<JournalRead, StoreError> {
        self.answers()?;
        self.shown()?;
        let since = position.map(|position| clock(position.xid));
        Ok(self.journal.read(now, |written| {
            since.is_none_or(|since| written.at.after(OVERLAP) >= since)
        }))
    }

    /// Removes what is there, of whatever age, and raises the floor past it, in one transaction. (An age is
    /// needed where transaction ids are used twice, which is not simulated.)
    ///
    /// Not past the oldest transaction still running: while it runs, the copy of every fresh read would be
    /// below the floor.
    pub(crate) fn purge(&mut self, mistake: Option<Mistake>) {
        if self.answers().is_err() {
            return;
        }
        self.take_number();
        let xmin = self.xmin();
        let past_the_running = mistake == Some(Mistake::PurgesPastTheRunning);
        let goes = |row: &JournalRow| row.xid < xmin || past_the_running;
        let last = self.journal.rows.iter().map(|written| &written.row);
        let last = last.filter(|row| goes(row)).map(|row| row.xid).max();
        self.journal.rows.retain(|written| !goes(&written.row));
        if mistake == Some(Mistake::PurgeLeavesTheFloor) {
            return;
        }
        let above = last.map_or(0, |last| xmin.min(last + 1));
        self.journal.floor = self.journal.floor.max(above);
    }
}
