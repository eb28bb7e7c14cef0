//! A touch: one statement, which waits for nobody's lock.
//!
//! It reads what the session was when it began; then it locks the row as it is now, unless somebody else has.
//! Where it has not made what should have been made by what it read, it is a conflict: who asked looks again.

use std::time::Duration;

use session_layer::store::Change;
use session_layer::{SessionId, StoreError, Timestamp};

use super::{Outcome, Stage, Transaction};
use crate::postgres::{Postgres, Record, digests, in_time, session};

/// What a touch reads when it begins.
#[derive(Debug, Clone)]
pub(super) struct Was {
    at: usize,
    record: Record,
    epoch: u64,
    now: Timestamp,
}

impl Was {
    /// Also of the row that it locks: clock and epoch are of the statement.
    fn is_alive(&self, record: &Record) -> bool {
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
        let answer = |change| Ok(Some(Outcome::Change(change)));
        let made = |record: &Record| Change::Made {
            session: session(record),
            digests: digests(record),
        };
        let Stage::Read(was) = &transaction.stage else {
            self.shown()?;
            let Some(at) = self.records.iter().position(|record| record.id == id) else {
                return answer(Change::NoSession);
            };
            let record = self.records[at].clone();
            let epoch = self.epoch(&record.user);
            transaction.stage = Stage::Read(Was {
                at,
                record,
                epoch,
                now,
            });
            return Ok(None);
        };
        let was = was.clone();
        let due = was.is_alive(&was.record) && was.is_due(&was.record, granularity);
        if self.locks.contains_key(&was.at) {
            self.passed_a_lock = true;
        } else {
            // Whether there is anything to write or not.
            let xid = self.begin(transaction);
            self.locks.insert(was.at, xid);
            let mut record = self.records[was.at].clone();
            if was.is_alive(&record) && was.is_due(&record, granularity) {
                record.last_seen_at = was.now;
                let change = made(&record);
                transaction.records.push((Some(was.at), record));
                return answer(change);
            }
            self.overtaken |= due;
        }
        answer(if due {
            Change::Conflict
        } else if was.is_alive(&was.record) {
            made(&was.record)
        } else {
            Change::NoSession
        })
    }
}
