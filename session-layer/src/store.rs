//! The port to the store: the truth about every session.
//!
//! Every answer is given by the store's own clock and in one statement, beside what makes it
//! trustworthy: a server in recovery, or one that may be hiding rows from us, has not said "no".

use std::future::Future;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::session::{CheckedSession, ListedSession, LoginMoment, Session, SessionId};
use crate::token::TokenDigest;

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use self::postgres::{
    CHANGE_DEADLINE, InvalidSchemaName, PostgresStore, PostgresStoreBuilder, READ_DEADLINE,
};

#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;

/// A random number written by the store's first migration. Two environments that share one Redis
/// never accept each other's sessions.
pub type StoreId = [u8; 16];

/// May this name the schema of our tables: `[a-z_][a-z0-9_]{0,62}`? Postgres cuts longer names off, and
/// reserves `pg_` for itself.
pub(crate) fn is_schema_name(name: &str) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let goes_on_well = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    starts_well && goes_on_well && name.len() <= 63 && !name.starts_with("pg_")
}

/// What one read of the store returned.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The store's clock at the read.
    pub now: Timestamp,
    /// Which store answered.
    pub store_id: StoreId,
    /// The oldest transaction still running at the read; 0 where the store has none.
    pub xmin: u64,
    /// One per digest, in order.
    pub rows: Vec<Row>,
}

/// What the store says of one digest.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Row {
    /// The session is alive.
    Alive {
        /// It.
        session: Session,
        /// Set where the digest is the one before a rotation: until when it still counts.
        previous_until: Option<Timestamp>,
    },
    /// There was one, and it was ended: its cached copies must go.
    Revoked,
    /// There is none, or its time is over.
    Absent,
}

/// Which sessions a change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The one with this token, or, within the grace of a rotation, with this as its previous one.
    Token(TokenDigest),
    /// The one with this id.
    Id(SessionId),
    /// The one with this id, if it is this user's.
    OwnedBy(SessionId, String),
    /// All of this user's, but perhaps one.
    User {
        /// Whose.
        user_id: String,
        /// The one that is spared.
        keep: Option<SessionId>,
    },
}

/// What a revocation found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revoked {
    /// How many sessions were alive and now are not.
    pub ended: u64,
    /// How many sessions there were, dead ones included.
    pub found: u64,
    /// Every digest they have or had: all that must leave the cache.
    pub digests: Vec<TokenDigest>,
}

impl Revoked {
    /// One that found nothing; the fields are public.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            ended: 0,
            found: 0,
            digests: Vec::new(),
        }
    }
}

/// What became of a change to one session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Change {
    /// Made; this is the session now.
    Made {
        /// As it is now.
        session: Session,
        /// Every digest it has or had: all that must leave the cache.
        digests: Vec<TokenDigest>,
    },
    /// It was changed by someone else since it was read, or rotated already: nothing was changed.
    Conflict,
    /// There is no such session that is alive: nothing was changed.
    NoSession,
}

/// What became of a creation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Creation {
    /// This is the new session.
    Created(Session),
    /// All of the user's sessions were revoked while this login was under way: nothing was created.
    Superseded,
    /// A session with this digest exists already: nothing was created.
    Taken,
}

/// A position in the journal: everything before it has been read.
///
/// It is the xmin of the snapshot of the last read, never a time or the last id: a row of a
/// transaction that commits late would be missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalPosition {
    /// Of which store it is (Postgres' system identifier; 0 where nothing can take its place). One that
    /// was filled from a dump counts its transactions anew.
    pub system: u64,
    /// Of which life of the store it is; 0 where the store has but one. A new one begins whenever transaction ids may
    /// be used again: with a standby's promotion, and with the recovery from a crash, which forgets the ids whose log
    /// had not reached the disk. (Of Postgres it is a hash of its timeline and its last checkpoint, with which each
    /// recovery ends; of the connection where Postgres does not tell them.) In another store or another life a position
    /// means nothing, and the journal is read from its start.
    pub life: u64,
    /// The first transaction that the next read is about.
    pub xid: u64,
}

/// One change, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// The transaction that made the change.
    pub xid: u64,
    /// When that began, by the store's clock.
    pub at: Timestamp,
    /// Which session; `None`: all there were before this transaction (TRUNCATE).
    pub session_id: Option<SessionId>,
    /// The digests it had before the change.
    pub digests: Vec<TokenDigest>,
    /// The least row version still to be believed; `None`: none, the session has ended.
    pub least_version: Option<i64>,
}

/// One read of the journal.
#[derive(Debug, Clone)]
pub struct JournalRead {
    /// Rows of transactions that were not finished at the position the read began from. A row may
    /// come again in the next read; applying it twice does no harm.
    pub rows: Vec<JournalRow>,
    /// Where the next read begins.
    pub next: JournalPosition,
    /// Nothing before this transaction is kept any more (purged).
    pub floor: u64,
    /// What the store's clock said, no earlier than the read began.
    pub now: Timestamp,
}

/// A store of sessions: `PostgresStore`, `SqliteStore` (feature `sqlite`), or your own.
///
/// Every method bounds itself in time. An error is an outage, never a "no": what the store says
/// goes into the `Ok`. [`StoreErrorKind::Uncertain`](crate::error::StoreErrorKind::Uncertain) is for a
/// change whose answer was lost after it was sent.
///
/// A call that goes on for ever all the same is dropped: [`load`](Self::load) and [`touch`](Self::touch) after 2 s (or the
/// [budget](crate::SessionsBuilder::budget), if that is longer), all others after 90 s. It has failed then, and so has one
/// that panics; a change is taken for `Uncertain`.
pub trait SessionStore: Send + Sync + 'static {
    /// Reads many digests at once, in one statement. With none it is the question which store this is
    /// and what its clock says.
    fn load(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Where the store stands now: what a login notes when it begins.
    fn login_moment(&self) -> impl Future<Output = Result<LoginMoment, StoreError>> + Send;

    /// Creates a session under `digest`, unless all of the user's sessions were revoked since the login
    /// [began](CheckedSession::begun); without that, since this call began.
    fn create(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
    ) -> impl Future<Output = Result<Creation, StoreError>> + Send;

    /// Every digest of the sessions in question, dead or alive: they are fenced before the change,
    /// and unlinked after it also when its answer is lost.
    fn digests(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<Vec<TokenDigest>, StoreError>> + Send;

    /// Ends them. Ending what has ended is no error.
    fn revoke(
        &self,
        target: &Target,
        reason: &str,
    ) -> impl Future<Output = Result<Revoked, StoreError>> + Send;

    /// Replaces the data, if the session is alive and its version still this one.
    fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Gives the session under `old` the digest `new`; `old` goes on counting for `grace`. A second
    /// rotation of the same token is a [`Change::Conflict`].
    fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Notes that the session is in use, if it is alive by the store's clock: moves `last_seen_at` to
    /// now unless it moved less than `granularity` ago. Returns the session as it is then.
    fn touch(
        &self,
        id: SessionId,
        granularity: Duration,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// The user's sessions that are alive, newest first.
    fn list(
        &self,
        user_id: &str,
    ) -> impl Future<Output = Result<Vec<ListedSession>, StoreError>> + Send;

    /// Reads the journal from a position on, or all of it; all of it too where the position is of another
    /// store or [life](JournalPosition::life). Rows and the next position come from one statement.
    fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> impl Future<Output = Result<JournalRead, StoreError>> + Send;

    /// How many [`load`](Self::load)s should be under way at once at most, unless
    /// [told otherwise](crate::SessionsBuilder::reads_at_once). Under load they grow larger instead of
    /// more, so few are enough. Defaults to 4.
    fn reads_at_once(&self) -> usize {
        4
    }

    /// Removes what the journal says of changes older than `keep`. Returns how many rows that were.
    ///
    /// [`JournalRead::floor`] is raised past them at the same moment, and never past a transaction that is
    /// still running. Defaults to removing nothing.
    fn purge_journal(
        &self,
        _keep: Duration,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        std::future::ready(Ok(0))
    }

    /// Deletes at most `most` sessions that ended or expired longer ago than `retention`. Returns how
    /// many. It writes nothing into the journal. Defaults to deleting nothing.
    fn sweep(
        &self,
        _retention: Duration,
        _most: u32,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        std::future::ready(Ok(0))
    }

    /// Can nobody but this handle change it, or read it? Then its journal is not read, and no other process
    /// has copies ([`Invalidated::InThisProcess`](crate::cache::Invalidated)). Defaults to no.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// `"postgres"` or `"sqlite"`.
    fn backend(&self) -> &'static str;

    /// Can it answer the truth right now? For readiness.
    fn probe(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Closes connections that the store opened itself.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
