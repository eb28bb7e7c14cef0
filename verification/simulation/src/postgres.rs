//! The simulated Postgres: rows, users with epochs, transactions, the journal.
//!
//! A read sees what is committed when it executes. A change takes its locks and its transaction id
//! when it executes, and becomes visible with its COMMIT, which is another event. Meanwhile, a
//! change of the same row waits, and then reads it again (READ COMMITTED). A touch does not wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::{CacheId, Entry};
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::SessionParts;
use session_layer::store::{NodeRegistration, ReadResult, RegistrationId, Row, StoreId, Target};
use session_layer::{LoginSnapshot, Session, SessionId, Timestamp, TokenDigest};

use crate::coverage::Coverage;
use crate::world::Millis;

mod change;
mod journal;

pub(crate) use self::change::{Outcome, Statement, Transaction};
use self::journal::Journal;

/// The year 2100, which differs from this machine's clock, on which nothing may depend.
const EPOCH: Timestamp = Timestamp::from_micros(4_102_444_800_000_000);

pub(crate) const STORE: StoreId = *b"simulated store!";

/// Returns the time of Postgres' clock.
pub(crate) fn clock(now: Millis) -> Timestamp {
    EPOCH.after(Duration::from_millis(now))
}

/// A row of `sessions`.
#[derive(Debug, Clone)]
struct Record {
    id: SessionId,
    digest: TokenDigest,
    previous: Option<TokenDigest>,
    previous_until: Timestamp,
    user: String,
    user_epoch: u64,
    data: Box<RawValue>,
    version: i64,
    created_at: Timestamp,
    last_seen_at: Timestamp,
    idle: Option<Duration>,
    persistent: bool,
    expires_at: Timestamp,
    revoked: bool,
}

/// A row of `session_users`.
#[derive(Debug, Clone, Default)]
struct User {
    epoch: u64,
    raised_by: Option<u64>,
    /// Logins in progress, which lock the row FOR SHARE.
    shared_by: BTreeSet<u64>,
    /// A revoke-all in progress.
    locked_by: Option<u64>,
}

/// The server.
#[derive(Debug, Default)]
pub(crate) struct Postgres {
    /// The number of outages. They may overlap.
    pub(crate) outages: u32,
    /// The number of faults by which row-level security hides all sessions.
    pub(crate) hidings: u32,
    records: Vec<Record>,
    users: BTreeMap<String, User>,
    journal: Journal,
    /// The cache from which each node serves, and until when.
    nodes: BTreeMap<RegistrationId, (CacheId, Millis)>,
    next: u64,
    running: BTreeSet<u64>,
    /// The transactions that have locked a record.
    locks: BTreeMap<usize, u64>,
    /// What happened in the server.
    pub(crate) coverage: Coverage,
}

impl Postgres {
    pub(crate) fn new() -> Self {
        Self { next: 1, ..Self::default() }
    }

    /// Returns the oldest running transaction.
    fn xmin(&self) -> u64 {
        self.running.first().copied().unwrap_or(self.next)
    }

    fn epoch(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |user| user.epoch)
    }

    fn is_active(&self, record: &Record, now: Timestamp) -> bool {
        !record.revoked && record.user_epoch >= self.epoch(&record.user) && in_time(record, now)
    }

    /// Finds the session with this digest, or with this previous digest within its grace.
    fn find(&self, digest: TokenDigest, now: Timestamp) -> Option<usize> {
        let by = |is: &dyn Fn(&Record) -> bool| self.records.iter().position(is);
        by(&|record| record.digest == digest).or_else(|| {
            by(&|record| record.previous == Some(digest) && record.previous_until > now)
        })
    }

    /// Fails if row-level security may hide rows.
    fn check_visible(&self) -> Result<(), StoreError> {
        let hidden = "row-level security may hide rows";
        match self.hidings {
            0 => Ok(()),
            _ => Err(StoreError::new(StoreErrorKind::NotAuthoritative, hidden)),
        }
    }

    /// Fails during an outage.
    fn check_up(&self) -> Result<(), StoreError> {
        match self.outages {
            0 => Ok(()),
            _ => Err(StoreError::new(StoreErrorKind::Unreachable, "no connection to Postgres")),
        }
    }

    pub(crate) fn load(
        &self,
        digests: &[TokenDigest],
        now: Millis,
    ) -> Result<ReadResult, StoreError> {
        self.check_up()?;
        let now = clock(now);
        if !digests.is_empty() {
            self.check_visible()?;
        }
        let row = |digest: &TokenDigest| {
            let Some(at) = self.find(*digest, now) else {
                return Row::Absent;
            };
            let record = &self.records[at];
            if record.revoked || record.user_epoch < self.epoch(&record.user) {
                Row::Revoked
            } else if in_time(record, now) {
                Row::Alive {
                    session: session(record),
                    user_epoch: record.user_epoch.cast_signed(),
                    previous_until: (record.digest != *digest).then_some(record.previous_until),
                }
            } else {
                Row::Absent
            }
        };
        Ok(ReadResult {
            now,
            store_id: STORE,
            xmin: self.xmin(),
            rows: digests.iter().map(row).collect(),
        })
    }

    pub(crate) fn digests(
        &self,
        target: &Target,
        now: Millis,
    ) -> Result<Vec<TokenDigest>, StoreError> {
        self.check_up()?;
        self.check_visible()?;
        let found = self.targets(target, clock(now));
        Ok(found.into_iter().flat_map(|at| digests(&self.records[at])).collect())
    }

    fn targets(&self, target: &Target, now: Timestamp) -> Vec<usize> {
        let is = |record: &Record| match target {
            Target::Id(id) => record.id == *id,
            Target::OwnedBy(id, user) => record.id == *id && record.user == *user,
            Target::User { user_id, .. } => record.user == *user_id,
            _ => false,
        };
        match target {
            Target::Token(digest) => self.find(*digest, now).into_iter().collect(),
            _ => (0..self.records.len()).filter(|at| is(&self.records[*at])).collect(),
        }
    }

    /// Stops the server, which rolls back what had not committed.
    pub(crate) fn crash(&mut self) {
        self.outages += 1;
        for xid in std::mem::take(&mut self.running) {
            self.end(xid);
        }
    }

    /// Returns a snapshot: the next transaction, and the running ones.
    fn snapshot(&self) -> String {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        format!("{}:{}", self.next, running.join(","))
    }

    pub(crate) fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.check_up()?;
        LoginSnapshot::new(self.snapshot())
            .map_err(|error| StoreError::new(StoreErrorKind::Other, "no moment").with_source(error))
    }

    /// Begins a transaction, which holds back the xmin of every read. Returns its id.
    pub(crate) fn leave_open(&mut self) -> u64 {
        let xid = self.next_id();
        self.running.insert(xid);
        xid
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn register(
        &mut self,
        node: &NodeRegistration,
        now: Millis,
    ) -> Result<Option<StoreId>, StoreError> {
        self.check_up()?;
        let lasts = u64::try_from(node.lasts.as_millis()).unwrap_or(u64::MAX);
        self.nodes.insert(node.id, (node.cache, now + lasts));
        Ok(Some(STORE))
    }

    pub(crate) fn forget(&mut self, id: RegistrationId) -> Result<(), StoreError> {
        self.check_up()?;
        self.nodes.remove(&id);
        Ok(())
    }

    pub(crate) fn is_one_cache(&self, cache: &CacheId, now: Millis) -> Result<bool, StoreError> {
        self.check_up()?;
        let mut serving = self.nodes.values().filter(|(_, until)| *until > now);
        Ok(serving.all(|(of, _)| of == cache))
    }

    /// Ends a transaction.
    pub(crate) fn end(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.locks.retain(|_, holder| *holder != xid);
        for user in self.users.values_mut() {
            user.shared_by.remove(&xid);
            user.locked_by = user.locked_by.filter(|holder| *holder != xid);
        }
    }

    /// Returns whether the session has changed since this entry was read.
    pub(crate) fn is_outdated(&self, entry: &Entry) -> bool {
        let id = entry.session.id();
        let now = self.records.iter().find(|record| record.id == id);
        now.is_none_or(|now| {
            now.version != entry.session.version() || now.user_epoch < self.epoch(&now.user)
        })
    }
}

fn in_time(record: &Record, now: Timestamp) -> bool {
    let idle_out = |idle| record.last_seen_at.after(idle) <= now;
    record.expires_at > now && !record.idle.is_some_and(idle_out)
}

fn digests(record: &Record) -> Vec<TokenDigest> {
    std::iter::once(record.digest).chain(record.previous).collect()
}

fn session(record: &Record) -> Session {
    SessionParts {
        id: record.id,
        user_id: record.user.clone(),
        version: record.version,
        created_at: record.created_at,
        authenticated_at: record.created_at,
        last_seen_at: record.last_seen_at,
        expires_at: record.expires_at,
        idle_timeout: record.idle,
        persistent: record.persistent,
        data: record.data.clone(),
    }
    .into()
}

#[cfg(test)]
mod tests;
