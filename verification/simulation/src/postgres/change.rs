//! Changes. Each takes its locks and its transaction id when it executes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{
    Change, Creation, EndedUser, JournalChange, JournalRow, Revoked, Target, ValidatedSession,
};
use session_layer::{Session, SessionId, Timestamp, TokenDigest};

use super::journal::Logged;
use super::{Postgres, Record, clock, digests, session};
use crate::coverage::Event;
use crate::world::Millis;

mod touch;

/// A statement that changes rows.
#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Create(TokenDigest, ValidatedSession),
    Revoke(Target),
    Update(SessionId, i64, Box<RawValue>),
    /// An update by direct SQL, of any version.
    SetData(TokenDigest, Box<RawValue>),
    Rotate(TokenDigest, TokenDigest, Duration),
    Touch(SessionId, Duration),
}

/// The result of a statement.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Creation(Creation),
    Revoked(Revoked),
    Change(Change),
}

/// A change in progress.
#[derive(Debug)]
pub(crate) struct Transaction {
    statement: Statement,
    /// How long the transaction stays open before its COMMIT.
    idle: Millis,
    stage: Stage,
    xid: Option<u64>,
    records: Vec<(Option<usize>, Record)>,
    journal: Vec<Logged>,
    /// The snapshot at its start.
    began: Option<(BTreeSet<u64>, u64)>,
}

#[derive(Debug)]
enum Stage {
    Begun,
    /// A touch that has read the session.
    Read(touch::Was),
    /// With its time.
    Executed(Outcome, Millis),
}

impl Transaction {
    pub(crate) fn new(statement: Statement) -> Self {
        Self::that_idles(statement, 0)
    }

    pub(crate) fn that_idles(statement: Statement, idle: Millis) -> Self {
        Self {
            statement,
            idle,
            stage: Stage::Begun,
            xid: None,
            records: Vec::new(),
            journal: Vec::new(),
            began: None,
        }
    }

    /// Returns the digest, if this is a login.
    pub(crate) fn login(&self) -> Option<TokenDigest> {
        match &self.statement {
            Statement::Create(digest, _) => Some(*digest),
            _ => None,
        }
    }
}

impl Postgres {
    /// Continues a change. Returns `None` if it waits, or if its COMMIT follows.
    pub(crate) fn advance(
        &mut self,
        transaction: &mut Transaction,
        now: Millis,
    ) -> Option<Result<Outcome, StoreError>> {
        let begun = transaction.xid;
        let gone = begun.is_some_and(|xid| !self.running.contains(&xid));
        if self.outages > 0 || gone {
            return Some(Err(match begun {
                // It was rolled back, which the client cannot know.
                Some(_) => StoreError::new(StoreErrorKind::Uncertain, "the connection broke"),
                None => StoreError::new(StoreErrorKind::Unreachable, "no connection to Postgres"),
            }));
        }
        if transaction.began.is_none() {
            transaction.began = Some((self.running.clone(), self.next));
        }
        if let Stage::Executed(outcome, at) = &transaction.stage {
            if now < at + transaction.idle {
                return None;
            }
            let outcome = outcome.clone();
            self.commit(transaction);
            return Some(Ok(outcome));
        }
        match self.execute(transaction, clock(now)) {
            Ok(Some(outcome)) if transaction.records.is_empty() && transaction.xid.is_none() => {
                Some(Ok(outcome))
            }
            Ok(Some(outcome)) => {
                transaction.stage = Stage::Executed(outcome, now);
                None
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes locks and records the writes. Returns `Ok(None)` if it waits.
    fn execute(
        &mut self,
        transaction: &mut Transaction,
        now: Timestamp,
    ) -> Result<Option<Outcome>, StoreError> {
        let statement = transaction.statement.clone();
        match statement {
            Statement::Create(digest, new) => Ok(self.create(transaction, digest, &new, now)),
            Statement::Revoke(Target::User { user_id, keep }) => {
                self.check_visible()?;
                Ok(self.revoke_user(transaction, &user_id, keep, now))
            }
            Statement::Revoke(target) => {
                self.check_visible()?;
                Ok(self.revoke(transaction, &target, now))
            }
            Statement::Update(id, version, data) => {
                self.change(transaction, &Target::Id(id), now, |record| {
                    if record.version != version {
                        return false;
                    }
                    record.data.clone_from(&data);
                    true
                })
            }
            Statement::SetData(digest, data) => {
                self.change(transaction, &Target::Token(digest), now, |record| {
                    record.data.clone_from(&data);
                    true
                })
            }
            Statement::Rotate(old, new, grace) => {
                self.change(transaction, &Target::Token(old), now, |record| {
                    if record.digest != old {
                        return false;
                    }
                    record.previous = Some(record.digest);
                    record.previous_until = now.after(grace);
                    record.digest = new;
                    true
                })
            }
            Statement::Touch(id, granularity) => self.touch(transaction, id, granularity, now),
        }
    }

    fn create(
        &mut self,
        transaction: &mut Transaction,
        digest: TokenDigest,
        new: &ValidatedSession,
        now: Timestamp,
    ) -> Option<Outcome> {
        let user = self.users.entry(new.user_id.clone()).or_default();
        if user.locked_by.is_some() {
            return None;
        }
        let (running, last) = match new.begun.as_ref().and_then(|begun| snapshot(begun.as_str())) {
            Some(begun) => begun,
            None => transaction.began.clone()?,
        };
        let unseen = |xid: u64| xid >= last || running.contains(&xid);
        if user.raised_by.is_some_and(unseen) {
            self.coverage.saw(Event::SupersededLogin);
            return Some(Outcome::Creation(Creation::Superseded));
        }
        let user_epoch = user.epoch;
        let xid = self.begin(transaction);
        if let Some(user) = self.users.get_mut(&new.user_id) {
            user.shared_by.insert(xid);
        }
        let record = Record {
            id: new.id,
            digest,
            previous: None,
            previous_until: now,
            user: new.user_id.clone(),
            user_epoch,
            data: new.data.clone(),
            version: 1,
            created_at: now,
            last_seen_at: now,
            idle: new.idle_timeout,
            persistent: new.persistent,
            expires_at: now.after(new.lifetime),
            revoked: false,
        };
        let created = Creation::Created(session(&record));
        transaction.records.push((None, record));
        Some(Outcome::Creation(created))
    }

    fn revoke(
        &mut self,
        transaction: &mut Transaction,
        target: &Target,
        now: Timestamp,
    ) -> Option<Outcome> {
        let found = self.targets(target, now);
        if found.iter().any(|at| self.locks.contains_key(at)) {
            return None;
        }
        let mut revoked = Revoked::nothing();
        for at in found {
            revoked.found += 1;
            revoked.digests.extend(digests(&self.records[at]));
            if self.is_active(&self.records[at], now) {
                revoked.ended += 1;
                self.write(transaction, at, now, |record| record.revoked = true);
            }
        }
        Some(Outcome::Revoked(revoked))
    }

    /// Raises the epoch, and moves the spared session into it. One journal row ends all others.
    fn revoke_user(
        &mut self,
        transaction: &mut Transaction,
        user_id: &str,
        keep: Option<SessionId>,
        now: Timestamp,
    ) -> Option<Outcome> {
        let user = self.users.entry(user_id.to_owned()).or_default();
        if user.locked_by.is_some() || !user.shared_by.is_empty() {
            return None;
        }
        let target = Target::User { user_id: user_id.to_owned(), keep };
        let found = self.targets(&target, now);
        let spared = |at: &usize| keep == Some(self.records[*at].id);
        if found.iter().any(|at| spared(at) && self.locks.contains_key(at)) {
            return None;
        }
        let xid = self.begin(transaction);
        if let Some(user) = self.users.get_mut(user_id) {
            user.locked_by = Some(xid);
        }
        let epoch = self.epoch(user_id) + 1;
        let mut revoked = Revoked::nothing();
        for at in found {
            let record = &self.records[at];
            let spared = keep == Some(record.id);
            revoked.digests.extend(digests(record));
            revoked.found += u64::from(!spared);
            if self.is_active(record, now) {
                revoked.ended += u64::from(!spared);
                if spared {
                    self.write(transaction, at, now, |record| record.user_epoch = epoch);
                }
            }
        }
        let epoch = epoch.cast_signed();
        let row =
            JournalRow { xid, change: JournalChange::User { user_id: user_id.to_owned(), epoch } };
        transaction.journal.push(Logged { row, at: now });
        revoked.user = Some(EndedUser { user_id: user_id.to_owned(), epoch, xid });
        Some(Outcome::Revoked(revoked))
    }

    /// Changes one active session. `make` returns `false` if it conflicts.
    fn change(
        &mut self,
        transaction: &mut Transaction,
        target: &Target,
        now: Timestamp,
        make: impl FnOnce(&mut Record) -> bool,
    ) -> Result<Option<Outcome>, StoreError> {
        self.check_visible()?;
        // A rotated token is found too, and returns a conflict.
        let found = match target {
            Target::Token(digest) => self
                .records
                .iter()
                .position(|record| record.digest == *digest || record.previous == Some(*digest)),
            other => self.targets(other, now).first().copied(),
        };
        let outcome = |change| Ok(Some(Outcome::Change(change)));
        if found.is_some_and(|at| self.locks.contains_key(&at)) {
            return Ok(None);
        }
        let Some(at) = found.filter(|at| self.is_active(&self.records[*at], now)) else {
            return outcome(Change::NoSession);
        };
        let mut changed = self.records[at].clone();
        if !make(&mut changed) {
            return outcome(Change::Conflict);
        }
        let mut all = digests(&self.records[at]);
        all.extend(digests(&changed));
        let made = self.write(transaction, at, now, |record| {
            let version = record.version;
            *record = changed;
            record.version = version;
        });
        outcome(Change::Made { session: made, digests: all })
    }

    /// Locks the record, and records its new version and the journal row.
    fn write(
        &mut self,
        transaction: &mut Transaction,
        at: usize,
        now: Timestamp,
        make: impl FnOnce(&mut Record),
    ) -> Session {
        let xid = self.begin(transaction);
        self.locks.insert(at, xid);
        let before = &self.records[at];
        let mut record = before.clone();
        make(&mut record);
        record.version += 1;
        let row = JournalRow {
            xid,
            change: JournalChange::Session {
                id: record.id,
                digests: digests(before),
                least_version: (!record.revoked).then_some(record.version),
            },
        };
        transaction.journal.push(Logged { row, at: now });
        let made = session(&record);
        transaction.records.push((Some(at), record));
        made
    }

    /// Returns the transaction's id, which it takes with its first write.
    fn begin(&mut self, transaction: &mut Transaction) -> u64 {
        *transaction.xid.get_or_insert_with(|| self.leave_open())
    }

    fn commit(&mut self, transaction: &mut Transaction) {
        let Some(xid) = transaction.xid else { return };
        self.coverage.saw_if(Event::LateCommit, self.journal.has_row_after(xid));
        for (at, record) in transaction.records.drain(..) {
            match at {
                Some(at) => self.records[at] = record,
                None => self.records.push(record),
            }
        }
        self.journal.append(&mut transaction.journal);
        for user in self.users.values_mut() {
            if user.locked_by == Some(xid) {
                user.epoch += 1;
                user.raised_by = Some(xid);
            }
        }
        self.end(xid);
    }
}

/// Parses a snapshot: the running transactions, and the next one.
pub(super) fn snapshot(text: &str) -> Option<(BTreeSet<u64>, u64)> {
    let (next, running) = text.split_once(':')?;
    let running = running.split(',').filter_map(|xid| xid.parse().ok());
    Some((running.collect(), next.parse().ok()?))
}
