//! journal: what a node knows of changes that it did not make itself.
//!
//! Postgres writes a row into the journal with every change, also one made by plain SQL. Every node reads
//! what is new twice a second and keeps a *changed-set*: which sessions have ended, and which version of
//! the others is the least that is still true. It stands in front of every hit, so that a revoked session
//! ends on this node whatever Redis still holds, or holds again after a failover or from an old dump.
//!
//! What a copy has to pass, all at one moment (see [`State`]):
//!
//! 1. The journal was read, and under [`Policy::FailClosed`] recently: the last read that succeeded
//!    *began* at most [D](Timing::within) ago.
//! 2. The changed-set does not contradict it.
//! 3. It is not older than where this node's journal begins: the copy says which transactions its read may
//!    not have seen (`xmin`), and changes of those are either in the set, or were purged.
//!
//! Nothing here depends on a wall clock or on a window of time: a row that commits late is read late,
//! because the next read begins at the xmin of the last one's snapshot.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::{Entry, NO_CACHE, SessionCache};
use crate::clock::Timestamp;
use crate::deadline::{self, LONGEST};
use crate::driver::Driver;
use crate::error::StoreError;
use crate::session::SessionId;
use crate::store::{JournalRead, SessionStore};
use crate::token::TokenDigest;

/// How often the journal is read, unless set otherwise: twice a second. At some 0.1 ms per read that is
/// no load, and three reads may fail before a node calls itself stale.
pub const DEFAULT_JOURNAL_INTERVAL: Duration = Duration::from_millis(500);

/// D is this many times the interval.
const INTERVALS: u32 = 4;

/// What a node does that has lost touch with the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// It goes on serving copies until their TTL: a session that is revoked meanwhile lives on there
    /// for at most TTL + 2 s.
    #[default]
    Available,
    /// It serves no copies: without Postgres it answers 503. Nothing revoked is served by any node
    /// later than D after the COMMIT, whatever Redis does.
    FailClosed,
}

/// How often the journal is read, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) interval: Duration,
    pub(crate) policy: Policy,
}

impl Timing {
    /// D: after this a change is honoured by every node that reaches the store.
    pub(crate) fn within(self) -> Duration {
        self.interval * INTERVALS
    }
}

/// What the journal says of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing against it.
    Good,
    /// It is older than a change, or too old to tell: it will never be good again.
    Contradicted,
    /// This node has not read the journal, or (where the policy asks for it) not recently enough.
    Unread,
}

/// One node's changed-set.
#[derive(Debug)]
pub(crate) struct Journal {
    timing: Timing,
    state: RwLock<State>,
}

/// All under one lock: rows enter the set with the age that they belong to, and a copy is judged by both
/// at once. Were the age looked at after the set, a read that ended in between would vouch for a set
/// without its rows.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct State {
    /// When the last successful read began; `None`: none yet.
    read: Option<Instant>,
    /// Of which store it is: of another one, transaction ids mean nothing here.
    system: u64,
    /// Changes of transactions before this one were purged.
    begins: u64,
    changed: HashMap<SessionId, Changed>,
    /// The last TRUNCATE: its transaction and when that began. Copies that may not have seen it are older.
    truncated: Option<(u64, Timestamp)>,
}

/// The last that is known of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Changed {
    xid: u64,
    /// The least version still true; `None`: it has ended.
    least_version: Option<i64>,
}

impl Journal {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            state: RwLock::default(),
        }
    }

    /// For a store that nobody else can change: everything passes through this node, which can't lose touch with
    /// what others do.
    pub(crate) fn of_an_exclusive_store(timing: Timing) -> Self {
        let journal = Self::new(Timing {
            policy: Policy::Available,
            ..timing
        });
        journal.write().read = Some(Instant::now());
        journal
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// What is to be said of a copy, now.
    pub(crate) fn says(&self, entry: &Entry, now: Instant) -> Word {
        self.lock().says(entry, now, self.timing)
    }

    /// How long ago the last successful read began; `None`: there was none yet.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.lock().read?))
    }

    /// Would it let any copy be served?
    pub(crate) fn believes(&self, now: Instant) -> bool {
        self.age(now).is_some_and(|age| {
            self.timing.policy == Policy::Available || age <= self.timing.within()
        })
    }

    /// How many sessions are in the changed-set.
    pub(crate) fn len(&self) -> usize {
        self.lock().changed.len()
    }

    /// Takes in what a read that began at `began` returned. The answer: whose copies have to go.
    fn learn(&self, began: Instant, read: &JournalRead) -> Vec<TokenDigest> {
        self.write().learn(began, read)
    }

    fn lock(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn says(&self, entry: &Entry, now: Instant, timing: Timing) -> Word {
        let Some(read) = self.read else {
            return Word::Unread;
        };
        let changed = self.changed.get(&entry.session.id());
        let old = changed.is_some_and(|changed| !changed.allows(entry.session.version()));
        // By the time as well: after a crash Postgres may have given it an id that was used before the copy was read.
        let truncated = self
            .truncated
            .is_some_and(|(xid, at)| entry.xmin <= xid || entry.read_at <= at);
        if old || truncated || entry.xmin < self.begins {
            return Word::Contradicted;
        }
        let stale = now.saturating_duration_since(read) > timing.within();
        if stale && timing.policy == Policy::FailClosed {
            return Word::Unread;
        }
        Word::Good
    }

    fn learn(&mut self, began: Instant, read: &JournalRead) -> Vec<TokenDigest> {
        let first = self.read.is_none();
        if self.system != read.next.system {
            *self = Self {
                system: read.next.system,
                ..Self::default()
            };
        }
        let mut ended = Vec::new();
        for row in &read.rows {
            let Some(id) = row.session_id else {
                let (xid, at) = self.truncated.unwrap_or((row.xid, row.at));
                self.truncated = Some((xid.max(row.xid), at.max(row.at)));
                continue;
            };
            let new = Changed {
                xid: row.xid,
                least_version: row.least_version,
            };
            let known = self.changed.get(&id).copied();
            let merged = known.map_or(new, |known| known.and(new));
            self.changed.insert(id, merged);
            // While a transaction stays open somewhere, rows come again with every read.
            let news = known.is_none_or(|known| known != merged);
            // Of a session that lives on, the first reader replaces the copy; removing it here would,
            // from every node, take away the new one.
            if news && row.least_version.is_none() {
                ended.extend(&row.digests);
            }
        }
        self.begins = self.begins.max(read.floor);
        let begins = self.begins;
        self.changed.retain(|_, changed| changed.xid >= begins);
        self.truncated = self.truncated.filter(|(xid, _)| *xid >= begins);
        self.read = Some(began);
        if first {
            tracing::debug!(
                rows = read.rows.len(),
                "the journal of changed sessions was read"
            );
        }
        ended
    }
}

impl Changed {
    /// Is a copy of this version still true?
    fn allows(self, version: i64) -> bool {
        self.least_version.is_some_and(|least| version >= least)
    }

    /// Both are known. An end stays one; of two versions the later counts.
    fn and(self, other: Self) -> Self {
        Self {
            xid: self.xid.max(other.xid),
            least_version: match (self.least_version, other.least_version) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            },
        }
    }
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// Reads the journal for as long as the driver lives.
    pub(crate) async fn read_the_journal(driver: Weak<Self>, stop: CancellationToken) {
        let mut position = None;
        let mut failing = false;
        loop {
            let began = Instant::now();
            let interval = {
                let Some(driver) = driver.upgrade() else {
                    return;
                };
                // One that hangs or panics must not end the reading: the node would go on believing.
                let reading = deadline::within(LONGEST, driver.store.journal_since(position));
                let read = tokio::select! {
                    read = reading => read,
                    () = stop.cancelled() => return,
                };
                // Nobody knows where such a store stands: the next read is of the whole journal.
                position = position.filter(|_| read.is_ok());
                match read.unwrap_or_else(|broken| Err(broken.question())) {
                    Ok(read) => {
                        if std::mem::take(&mut failing) {
                            tracing::info!("the journal of changed sessions can be read again");
                        }
                        driver.counters.journal_reads.add_one();
                        // A node that has nothing but hits asks for nothing else.
                        driver.seen.clock.heard(began, read.now);
                        let ended = driver.journal.learn(began, &read);
                        driver.pending.journal_was_read(began);
                        position = Some(read.next);
                        driver.drop_copies(ended);
                    }
                    Err(error) => {
                        driver.note_journal(&error);
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "the journal of changed sessions cannot be read");
                        }
                    }
                }
                driver.journal.timing().interval
            };
            tokio::select! {
                () = tokio::time::sleep_until(began + interval) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Is there anything that a read of the journal would be for?
    pub(crate) fn needs_the_journal(&self) -> bool {
        !self.store.is_exclusive() && self.cache.status().backend != NO_CACHE
    }

    /// Removes copies of sessions that have ended, beside the reading: a slow Redis does not delay it.
    fn drop_copies(self: &Arc<Self>, digests: Vec<TokenDigest>) {
        if digests.is_empty() {
            return;
        }
        let driver = Arc::clone(self);
        self.tasks.spawn(async move {
            let _ = driver.unlink(&digests).await;
        });
    }

    fn note_journal(&self, error: &StoreError) {
        self.note_while("reading the journal", error);
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "journal/orders.rs"]
mod orders;
