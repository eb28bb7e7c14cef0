//! Changes: each takes its locks and its number when it takes effect, and is seen from its COMMIT on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::{Change, Creation, JournalRow, Revoked, Target};
use session_layer::{
    CheckedSession, LoginMoment, Session, SessionId, StoreError, StoreErrorKind, Timestamp,
    TokenDigest,
};

use super::{Postgres, Record, clock, digests, session};
use crate::world::Millis;

mod touch;

/// What is to be changed.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Create(TokenDigest, CheckedSession),
    Revoke(Target),
    Update(SessionId, i64, Box<RawValue>),
    /// By hand: of whatever version.
    SetData(TokenDigest, Box<RawValue>),
    Rotate(TokenDigest, TokenDigest, Duration),
    Touch(SessionId, Duration),
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Creation(Creation),
    Revoked(Revoked),
    Change(Change),
}

/// A change under way.
#[derive(Debug)]
pub(crate) struct Transaction {
    wish: Wish,
    /// It stays open for so long when all is done but the COMMIT.
    idle: Millis,
    /// How far it got.
    stage: Stage,
    xid: Option<u64>,
    records: Vec<(Option<usize>, Record)>,
    journal: Vec<JournalRow>,
    /// Which transactions had not committed when it began: the running, and all from the last on.
    began: Option<(BTreeSet<u64>, u64)>,
}

#[derive(Debug)]
enum Stage {
    Begun,
    /// A revoke-all that has raised the epoch.
    Raised,
    /// A touch that has read what the session was.
    Read(touch::Was),
    /// And when.
    Executed(Outcome, Millis),
}

impl Transaction {
    pub(crate) fn new(wish: Wish) -> Self {
        Self::that_idles(wish, 0)
    }

    pub(crate) fn that_idles(wish: Wish, idle: Millis) -> Self {
        Self {
            wish,
            idle,
            stage: Stage::Begun,
            xid: None,
            records: Vec::new(),
            journal: Vec::new(),
            began: None,
        }
    }

    /// The digest of the login that it is.
    pub(crate) fn login(&self) -> Option<TokenDigest> {
        match &self.wish {
            Wish::Create(digest, _) => Some(*digest),
            _ => None,
        }
    }
}

impl Postgres {
    /// Goes on with a change: `None` where it has to wait, or to be gone on with later.
    pub(crate) fn go_on(
        &mut self,
        transaction: &mut Transaction,
        now: Millis,
    ) -> Option<Result<Outcome, StoreError>> {
        let begun = transaction.xid;
        let gone = begun.is_some_and(|xid| !self.running.contains(&xid));
        if self.outages > 0 || gone {
            return Some(Err(match begun {
                // Rolled back with the server's end; but nobody can know.
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

    /// Takes locks and notes what is to be written; `Ok(None)` where it has to wait.
    fn execute(
        &mut self,
        transaction: &mut Transaction,
        now: Timestamp,
    ) -> Result<Option<Outcome>, StoreError> {
        let wish = transaction.wish.clone();
        match wish {
            Wish::Create(digest, new) => Ok(self.create(transaction, digest, &new, now)),
            Wish::Revoke(Target::User { user_id, keep }) => {
                self.shown()?;
                Ok(self.revoke_user(transaction, &user_id, keep, now))
            }
            Wish::Revoke(target) => {
                self.shown()?;
                Ok(self.revoke(transaction, &target, now))
            }
            Wish::Update(id, version, data) => {
                self.change(transaction, &Target::Id(id), now, |record| {
                    if record.version != version {
                        return false;
                    }
                    record.data.clone_from(&data);
                    true
                })
            }
            Wish::SetData(digest, data) => {
                self.change(transaction, &Target::Token(digest), now, |record| {
                    record.data.clone_from(&data);
                    true
                })
            }
            Wish::Rotate(old, new, grace) => {
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
            Wish::Touch(id, granularity) => self.touch(transaction, id, granularity, now),
        }
    }

    fn create(
        &mut self,
        transaction: &mut Transaction,
        digest: TokenDigest,
        new: &CheckedSession,
        now: Timestamp,
    ) -> Option<Outcome> {
        let user = self.users.entry(new.user_id.clone()).or_default();
        if user.locked_by.is_some() {
            return None;
        }
        let (running, last) = match new.begun.as_ref().and_then(moment) {
            Some(begun) => begun,
            None => transaction.began.clone()?,
        };
        let unseen = |xid: u64| xid >= last || running.contains(&xid);
        if user.raised_by.is_some_and(unseen) {
            self.superseded = true;
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
            if self.is_alive(&self.records[at], now) {
                revoked.ended += 1;
                self.write(transaction, at, now, |record| record.revoked = true);
            }
        }
        Some(Outcome::Revoked(revoked))
    }

    /// The epoch first; then, with another snapshot, the sessions.
    fn revoke_user(
        &mut self,
        transaction: &mut Transaction,
        user_id: &str,
        keep: Option<SessionId>,
        now: Timestamp,
    ) -> Option<Outcome> {
        if matches!(transaction.stage, Stage::Begun) {
            let user = self.users.entry(user_id.to_owned()).or_default();
            if user.locked_by.is_none() && user.shared_by.is_empty() {
                let xid = self.begin(transaction);
                if let Some(user) = self.users.get_mut(user_id) {
                    user.locked_by = Some(xid);
                }
                transaction.stage = Stage::Raised;
            }
            return None;
        }
        let target = Target::User {
            user_id: user_id.to_owned(),
            keep,
        };
        let found = self.targets(&target, now);
        if found.iter().any(|at| self.locks.contains_key(at)) {
            return None;
        }
        let epoch = self.epoch(user_id) + 1;
        let mut revoked = Revoked::nothing();
        for at in found {
            let record = &self.records[at];
            let spared = keep == Some(record.id);
            revoked.digests.extend(digests(record));
            revoked.found += u64::from(!spared);
            if self.is_alive(record, now) {
                revoked.ended += u64::from(!spared);
                self.write(transaction, at, now, |record| {
                    if spared {
                        record.user_epoch = epoch;
                    } else {
                        record.revoked = true;
                    }
                });
            }
        }
        Some(Outcome::Revoked(revoked))
    }

    /// A change of one session that is alive. `make` says no where the session is not as it must be.
    fn change(
        &mut self,
        transaction: &mut Transaction,
        target: &Target,
        now: Timestamp,
        make: impl FnOnce(&mut Record) -> bool,
    ) -> Result<Option<Outcome>, StoreError> {
        self.shown()?;
        // The one that was rotated away is found as well: it is told that it came second.
        let found = match target {
            Target::Token(digest) => self
                .records
                .iter()
                .position(|record| record.digest == *digest || record.previous == Some(*digest)),
            other => self.targets(other, now).first().copied(),
        };
        let answer = |change| Ok(Some(Outcome::Change(change)));
        let Some(at) = found else {
            return answer(Change::NoSession);
        };
        if self.locks.contains_key(&at) {
            return Ok(None);
        }
        if !self.is_alive(&self.records[at], now) {
            return answer(Change::NoSession);
        }
        let mut changed = self.records[at].clone();
        if !make(&mut changed) {
            return answer(Change::Conflict);
        }
        let mut all = digests(&self.records[at]);
        all.extend(digests(&changed));
        let made = self.write(transaction, at, now, |record| {
            let version = record.version;
            *record = changed;
            record.version = version;
        });
        answer(Change::Made {
            session: made,
            digests: all,
        })
    }

    /// Locks the record and notes its new version and what goes into the journal.
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
        transaction.journal.push(JournalRow {
            xid,
            at: now,
            session_id: Some(record.id),
            digests: digests(before),
            least_version: (!record.revoked).then_some(record.version),
        });
        let made = session(&record);
        transaction.records.push((Some(at), record));
        made
    }

    /// The transaction's number, from its first write on.
    fn begin(&mut self, transaction: &mut Transaction) -> u64 {
        *transaction.xid.get_or_insert_with(|| self.leave_open())
    }

    fn commit(&mut self, transaction: &mut Transaction) {
        let Some(xid) = transaction.xid else { return };
        self.committed_late |= self.journal.has_row_after(xid);
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

/// What [`Postgres::login_moment`] printed.
fn moment(text: &LoginMoment) -> Option<(BTreeSet<u64>, u64)> {
    let (next, running) = text.as_str().split_once(':')?;
    let running = running.split(',').filter_map(|xid| xid.parse().ok());
    Some((running.collect(), next.parse().ok()?))
}
