//! A touch: one statement, which waits for no lock.
//!
//! It reads the session, and then locks the row as it is by then, unless another transaction has.
//! If a touch was due and was not made, the result is a conflict, and the store sends it again.

use std::time::Duration;

use session_layer::error::StoreError;
use session_layer::store::Change;
use session_layer::{SessionId, Timestamp};

use super::{Outcome, Stage, Transaction};
use crate::coverage::Event;
use crate::postgres::{Postgres, Record, digests, in_time, session};

/// The session as a touch reads it at its start.
#[derive(Debug, Clone)]
pub(super) struct Was {
    at: usize,
    record: Record,
    epoch: u64,
    now: Timestamp,
}

impl Was {
    /// Returns whether a row is active, by the clock and the epoch of the statement.
    fn is_active(&self, record: &Record) -> bool {
        !record.revoked && record.user_epoch >= self.epoch && in_time(record, self.now)
    }

    fn is_due(&self, record: &Record, granularity: Duration) -> bool {
        self.now.since(record.last_seen_at) >= granularity
    }
}

impl Postgres {
    pub(super) fn touch(
        &mut self,
        transaction: &mut Transaction,
        id: SessionId,
        granularity: Duration,
        now: Timestamp,
    ) -> Result<Option<Outcome>, StoreError> {
        let outcome = |change| Ok(Some(Outcome::Change(change)));
        let made =
            |record: &Record| Change::Made { session: session(record), digests: digests(record) };
        let Stage::Read(was) = &transaction.stage else {
            self.check_visible()?;
            let Some(at) = self.records.iter().position(|record| record.id == id) else {
                return outcome(Change::NoSession);
            };
            let record = self.records[at].clone();
            let epoch = self.epoch(&record.user);
            transaction.stage = Stage::Read(Was { at, record, epoch, now });
            return Ok(None);
        };
        let was = was.clone();
        let due = was.is_active(&was.record) && was.is_due(&was.record, granularity);
        if self.locks.contains_key(&was.at) {
            self.coverage.saw(Event::LockedTouch);
        } else {
            let xid = self.begin(transaction);
            self.locks.insert(was.at, xid);
            let mut record = self.records[was.at].clone();
            if was.is_active(&record) && was.is_due(&record, granularity) {
                record.last_seen_at = was.now;
                let change = made(&record);
                transaction.records.push((Some(was.at), record));
                return outcome(change);
            }
            self.coverage.saw_if(Event::OvertakenTouch, due);
        }
        outcome(if due {
            Change::Conflict
        } else if was.is_active(&was.record) {
            made(&was.record)
        } else {
            Change::NoSession
        })
    }
}
