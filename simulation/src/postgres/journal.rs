//! The journal: what was changed, since when, and from where on it is kept.

use std::time::Duration;

use session_layer::StoreError;
use session_layer::store::{JournalPosition, JournalRead, JournalRow};

use super::{Postgres, clock};
use crate::mutants::Mistake;
use crate::world::Millis;

/// A mutant that reads by time reads so much again.
const OVERLAP: Duration = session_layer::DEFAULT_JOURNAL_INTERVAL;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Journal {
    rows: Vec<JournalRow>,
    /// Nothing before is kept.
    floor: u64,
}

impl Journal {
    pub(super) fn has_row_after(&self, xid: u64) -> bool {
        self.rows.iter().any(|row| row.xid > xid)
    }

    /// A transaction's rows, with its COMMIT.
    pub(super) fn append(&mut self, rows: &mut Vec<JournalRow>) {
        self.rows.append(rows);
    }

    fn read(&self, next: u64, now: Millis, wanted: impl Fn(&JournalRow) -> bool) -> JournalRead {
        let wanted = self.rows.iter().filter(|row| wanted(row));
        JournalRead {
            rows: wanted.cloned().collect(),
            next: JournalPosition {
                system: 1,
                life: 1,
                xid: next,
            },
            floor: self.floor,
            now: clock(now),
        }
    }
}

impl Postgres {
    /// Rows and the next position are of one snapshot.
    pub(crate) fn journal_since(
        &self,
        position: Option<JournalPosition>,
        now: Millis,
    ) -> Result<JournalRead, StoreError> {
        self.answers()?;
        self.shown()?;
        let from = position.map_or(0, |position| position.xid);
        Ok(self.journal.read(self.xmin(), now, |row| row.xid >= from))
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
        Ok(self.journal.read(now, now, |row| {
            since.is_none_or(|since| row.at.after(OVERLAP) >= since)
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
        let gone = self.journal.rows.iter().filter(|row| goes(row));
        let last = gone.map(|row| row.xid).max();
        self.journal.rows.retain(|row| !goes(row));
        if mistake == Some(Mistake::PurgeLeavesTheFloor) {
            return;
        }
        let above = last.map_or(0, |last| xmin.min(last + 1));
        self.journal.floor = self.journal.floor.max(above);
    }
}
