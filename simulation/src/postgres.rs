//! The simulated Postgres: rows, users with epochs, transactions, the journal.
//!
//! A read sees what is committed when it takes effect. A change takes its lock and its transaction number
//! when it takes effect, and is seen from its COMMIT on, which is an event of its own; who wants the same
//! row meanwhile waits, and then looks again (READ COMMITTED).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::Entry;
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, JournalRow, Loaded, Revoked, Row, StoreId,
    Target,
};
use session_layer::{
    CheckedSession, LoginMoment, Session, SessionId, SessionParts, StoreError, StoreErrorKind,
    Timestamp, TokenDigest,
};

use crate::world::Millis;

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
    journal: Vec<JournalRow>,
    /// Nothing before is kept.
    floor: u64,
    next: u64,
    running: BTreeSet<u64>,
    /// Which transaction has locked which record.
    locks: BTreeMap<usize, u64>,
    /// A transaction has committed after one that began after it.
    pub(crate) committed_late: bool,
    /// A login was refused since its user's sessions were all revoked meanwhile.
    pub(crate) superseded: bool,
}

/// What is to be changed.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Create(TokenDigest, CheckedSession),
    Revoke(Target),
    Update(SessionId, i64, Box<RawValue>),
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
    Executed(Outcome),
}

impl Transaction {
    pub(crate) fn new(wish: Wish) -> Self {
        Self {
            wish,
            stage: Stage::Begun,
            xid: None,
            records: Vec::new(),
            journal: Vec::new(),
            began: None,
        }
    }
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
        if let Stage::Executed(outcome) = &transaction.stage {
            let outcome = outcome.clone();
            self.commit(transaction);
            return Some(Ok(outcome));
        }
        match self.execute(transaction, clock(now)) {
            Ok(Some(outcome)) if transaction.records.is_empty() && transaction.xid.is_none() => {
                Some(Ok(outcome))
            }
            Ok(Some(outcome)) => {
                transaction.stage = Stage::Executed(outcome);
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
                self.write(transaction, at, |record| record.revoked = true);
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
                self.write(transaction, at, |record| {
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
        let made = self.write(transaction, at, |record| {
            let version = record.version;
            *record = changed;
            record.version = version;
        });
        answer(Change::Made {
            session: made,
            digests: all,
        })
    }

    fn touch(
        &mut self,
        transaction: &mut Transaction,
        id: SessionId,
        granularity: Duration,
        now: Timestamp,
    ) -> Result<Option<Outcome>, StoreError> {
        self.shown()?;
        let answer = |change| Ok(Some(Outcome::Change(change)));
        let Some(at) = self.records.iter().position(|record| record.id == id) else {
            return answer(Change::NoSession);
        };
        if self.locks.contains_key(&at) {
            return Ok(None);
        }
        let mut record = self.records[at].clone();
        if !self.is_alive(&record, now) {
            return answer(Change::NoSession);
        }
        if now.since(record.last_seen_at) >= granularity {
            record.last_seen_at = now;
            let xid = self.begin(transaction);
            self.locks.insert(at, xid);
            transaction.records.push((Some(at), record.clone()));
        }
        answer(Change::Made {
            session: session(&record),
            digests: digests(&record),
        })
    }

    /// Locks the record and notes its new version and what goes into the journal.
    fn write(
        &mut self,
        transaction: &mut Transaction,
        at: usize,
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
        *transaction.xid.get_or_insert_with(|| {
            let xid = self.next;
            self.next += 1;
            self.running.insert(xid);
            xid
        })
    }

    fn commit(&mut self, transaction: &mut Transaction) {
        let Some(xid) = transaction.xid else { return };
        self.committed_late |= self.journal.iter().any(|row| row.xid > xid);
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

    fn end(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.locks.retain(|_, holder| *holder != xid);
        for user in self.users.values_mut() {
            user.shared_by.remove(&xid);
            user.locked_by = user.locked_by.filter(|holder| *holder != xid);
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

    /// Rows and the next position are of one snapshot.
    pub(crate) fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.answers()?;
        self.shown()?;
        let from = position.map_or(0, |position| position.xid);
        let wanted = self.journal.iter().filter(|row| row.xid >= from);
        Ok(JournalRead {
            rows: wanted.cloned().collect(),
            next: JournalPosition {
                system: 1,
                timeline: 1,
                xid: self.xmin(),
            },
            floor: self.floor,
        })
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

/// What [`Postgres::login_moment`] printed.
fn moment(text: &LoginMoment) -> Option<(BTreeSet<u64>, u64)> {
    let (next, running) = text.as_str().split_once(':')?;
    let running = running.split(',').filter_map(|xid| xid.parse().ok());
    Some((running.collect(), next.parse().ok()?))
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
mod tests {
    use super::*;

    fn create(postgres: &mut Postgres, token: &str) -> Session {
        let new = session_layer::NewSession::new("ann").check().unwrap();
        let wish = Wish::Create(TokenDigest::of(token), new);
        match run(postgres, wish) {
            Outcome::Creation(Creation::Created(session)) => session,
            other => panic!("{other:?}"),
        }
    }

    fn run(postgres: &mut Postgres, wish: Wish) -> Outcome {
        let mut transaction = Transaction::new(wish);
        for _ in 0..4 {
            if let Some(outcome) = postgres.go_on(&mut transaction, 0) {
                return outcome.unwrap();
            }
        }
        panic!("it waits for ever");
    }

    #[test]
    fn the_journal_gives_a_row_that_commits_late_to_the_reader_of_before() {
        let mut postgres = Postgres::new();
        let sessions = [create(&mut postgres, "a"), create(&mut postgres, "b")];
        let mut early = Transaction::new(Wish::Revoke(Target::Id(sessions[0].id())));
        assert!(
            postgres.go_on(&mut early, 0).is_none(),
            "it has a number, and has not committed"
        );
        run(&mut postgres, Wish::Revoke(Target::Id(sessions[1].id())));
        let first = postgres.journal_since(None).unwrap();
        assert_eq!(first.rows.len(), 1);
        assert!(postgres.go_on(&mut early, 0).is_some());
        assert!(postgres.committed_late);
        let second = postgres.journal_since(Some(first.next)).unwrap();
        assert!(
            second
                .rows
                .iter()
                .any(|row| row.session_id == Some(sessions[0].id()))
        );
    }

    #[test]
    fn a_login_that_meets_a_revoke_all_is_refused() {
        let mut postgres = Postgres::new();
        create(&mut postgres, "a");
        let everyone = Target::User {
            user_id: "ann".to_owned(),
            keep: None,
        };
        let mut all = Transaction::new(Wish::Revoke(everyone));
        assert!(postgres.go_on(&mut all, 0).is_none());
        let new = session_layer::NewSession::new("ann").check().unwrap();
        let mut login = Transaction::new(Wish::Create(TokenDigest::of("b"), new));
        assert!(
            postgres.go_on(&mut login, 0).is_none(),
            "it waits for the lock"
        );
        assert!(postgres.go_on(&mut all, 0).is_none());
        assert!(postgres.go_on(&mut all, 0).is_some());
        let refused = postgres.go_on(&mut login, 0).unwrap().unwrap();
        assert!(matches!(refused, Outcome::Creation(Creation::Superseded)));
    }

    #[test]
    fn who_wants_a_locked_row_looks_again_after_the_commit() {
        let mut postgres = Postgres::new();
        let session = create(&mut postgres, "a");
        let mut revoke = Transaction::new(Wish::Revoke(Target::Id(session.id())));
        assert!(postgres.go_on(&mut revoke, 0).is_none());
        let data = session.parts().data.clone();
        let mut update = Transaction::new(Wish::Update(session.id(), 1, data));
        assert!(postgres.go_on(&mut update, 0).is_none());
        assert!(postgres.go_on(&mut revoke, 0).is_some());
        let update = postgres.go_on(&mut update, 0).unwrap().unwrap();
        assert!(matches!(update, Outcome::Change(Change::NoSession)));
    }
}
