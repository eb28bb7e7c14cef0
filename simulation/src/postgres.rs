//! The simulated Postgres: rows, users with epochs, transactions, the journal.
//!
//! A read sees what is committed when it takes effect. A change takes its lock and its transaction number
//! when it takes effect, and is seen from its COMMIT on, which is an event of its own; who wants the same
//! row meanwhile waits, and then looks again (READ COMMITTED). A touch does not wait: it goes past the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::Entry;
use session_layer::store::{Loaded, Row, StoreId, Target};
use session_layer::{
    LoginMoment, Session, SessionId, SessionParts, StoreError, StoreErrorKind, Timestamp,
    TokenDigest,
};

use crate::world::Millis;

mod change;
mod journal;

pub(crate) use self::change::{Outcome, Transaction, Wish};
use self::journal::Journal;

/// The year 2100: far from this machine's clock, by which nothing here may go.
const EPOCH: Timestamp = Timestamp::from_micros(4_102_444_800_000_000);

const STORE: StoreId = *b"simulated store!";

/// What the clock of Postgres says.
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
    /// FOR SHARE: logins under way.
    shared_by: BTreeSet<u64>,
    /// A revoke-all under way.
    locked_by: Option<u64>,
}

/// The server.
#[derive(Debug, Default)]
pub(crate) struct Postgres {
    /// How many outages there are just now; they may overlap.
    pub(crate) outages: u32,
    /// How often row-level security hides all sessions just now.
    pub(crate) hidings: u32,
    records: Vec<Record>,
    users: BTreeMap<String, User>,
    journal: Journal,
    next: u64,
    running: BTreeSet<u64>,
    /// Which transaction has locked which record.
    locks: BTreeMap<usize, u64>,
    /// A transaction has committed after one that began after it.
    pub(crate) committed_late: bool,
    /// A login was refused since its user's sessions were all revoked meanwhile.
    pub(crate) superseded: bool,
    /// A touch has found its row locked.
    pub(crate) passed_a_lock: bool,
    /// A touch has locked its row when another's change had come in between.
    pub(crate) overtaken: bool,
}

impl Postgres {
    pub(crate) fn new() -> Self {
        Self {
            next: 1,
            ..Self::default()
        }
    }

    /// The oldest transaction still running.
    fn xmin(&self) -> u64 {
        self.running.first().copied().unwrap_or(self.next)
    }

    fn epoch(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |user| user.epoch)
    }

    fn is_alive(&self, record: &Record, now: Timestamp) -> bool {
        !record.revoked && record.user_epoch >= self.epoch(&record.user) && in_time(record, now)
    }

    /// The one with this digest, or within the grace of a rotation with this as its previous one.
    fn find(&self, digest: TokenDigest, now: Timestamp) -> Option<usize> {
        let by = |is: &dyn Fn(&Record) -> bool| self.records.iter().position(is);
        by(&|record| record.digest == digest).or_else(|| {
            by(&|record| record.previous == Some(digest) && record.previous_until > now)
        })
    }

    /// Row-level security may hide what was not found.
    fn shown(&self) -> Result<(), StoreError> {
        if self.hidings > 0 {
            return Err(StoreError::new(
                StoreErrorKind::NotAuthoritative,
                "row-level security may hide rows",
            ));
        }
        Ok(())
    }

    fn answers(&self) -> Result<(), StoreError> {
        if self.outages > 0 {
            return Err(StoreError::new(
                StoreErrorKind::Unreachable,
                "no connection to Postgres",
            ));
        }
        Ok(())
    }

    pub(crate) fn load(&self, digests: &[TokenDigest], now: Millis) -> Result<Loaded, StoreError> {
        self.answers()?;
        let now = clock(now);
        if self.hidings > 0 && !digests.is_empty() {
            self.shown()?;
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
                    previous_until: (record.digest != *digest).then_some(record.previous_until),
                }
            } else {
                Row::Absent
            }
        };
        Ok(Loaded {
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
        self.answers()?;
        self.shown()?;
        let found = self.targets(target, clock(now));
        Ok(found
            .into_iter()
            .flat_map(|at| digests(&self.records[at]))
            .collect())
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
            _ => (0..self.records.len())
                .filter(|at| is(&self.records[*at]))
                .collect(),
        }
    }

    /// The server dies: what had not committed is rolled back.
    pub(crate) fn crash(&mut self) {
        self.outages += 1;
        for xid in std::mem::take(&mut self.running) {
            self.end(xid);
        }
    }

    /// Where the server stands: the next transaction, and those still running.
    pub(crate) fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        self.answers()?;
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        LoginMoment::new(format!("{}:{}", self.next, running.join(",")))
            .map_err(|error| StoreError::new(StoreErrorKind::Other, "no moment").with_source(error))
    }

    /// Somebody's transaction, idle: its number. It holds back the xmin of every read.
    pub(crate) fn leave_open(&mut self) -> u64 {
        let xid = self.take_number();
        self.running.insert(xid);
        xid
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// A transaction ends.
    pub(crate) fn end(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.locks.retain(|_, holder| *holder != xid);
        for user in self.users.values_mut() {
            user.shared_by.remove(&xid);
            user.locked_by = user.locked_by.filter(|holder| *holder != xid);
        }
    }

    /// Has the session changed since this copy was read?
    pub(crate) fn is_outdated(&self, copy: &Entry) -> bool {
        let id = copy.session.id();
        let now = self.records.iter().find(|record| record.id == id);
        now.is_none_or(|now| {
            now.version != copy.session.version() || now.user_epoch < self.epoch(&now.user)
        })
    }
}

fn in_time(record: &Record, now: Timestamp) -> bool {
    let idle_out = |idle| record.last_seen_at.after(idle) <= now;
    record.expires_at > now && !record.idle.is_some_and(idle_out)
}

fn digests(record: &Record) -> Vec<TokenDigest> {
    std::iter::once(record.digest)
        .chain(record.previous)
        .collect()
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
