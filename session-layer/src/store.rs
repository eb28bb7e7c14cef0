//! The interface to the store, the source of truth about every session.
//!
//! Every reply rests on the store's own clock and on one statement. A server in recovery, and one
//! that may hide rows from us, proves nothing, so its reply is an error.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::model::clock::Timestamp;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::identity::CacheId;
pub use crate::model::identity::StoreId;
use crate::model::session::{ListCursor, LoginSnapshot, Session, SessionId, SessionPage};
pub use crate::model::session::{SessionParts, ValidatedSession};
use crate::model::token::TokenDigest;

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use self::postgres::{
    DEFAULT_CHANGE_DEADLINE, DEFAULT_MAX_CONNECTIONS, DEFAULT_READ_DEADLINE, MigrationPlan,
    Network, ParseNetworkError, PlannedMigration, PostgresStore, PostgresStoreBuilder, SearchPage,
    SessionFilter, StoredSession, grants,
};

#[cfg(feature = "postgres")]
pub(crate) use self::postgres::heals_by_waiting;

#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;

/// The maximum deadline of a built-in store. It ends before the engine drops the call, so that the
/// store can report a known result.
#[cfg(feature = "postgres")]
pub(crate) const LONGEST_DEADLINE: Duration = Duration::from_secs(60);

/// The id of one registration of one node: a random number.
pub type RegistrationId = [u8; 16];

/// The schema of our tables, unless set otherwise.
pub(crate) const DEFAULT_SCHEMA: &str = "session_layer";

/// The rule of [`is_schema_name`] in words, for error messages.
pub(crate) const SCHEMA_NAME: &str = "1 to 63 of a-z, 0-9 and _, not beginning with a digit or pg_";

/// Returns whether a schema of our tables may have this name: `[a-z_][a-z0-9_]{0,62}`. Postgres
/// truncates longer names, and reserves `pg_` for itself.
pub(crate) fn is_schema_name(name: &str) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    starts_well && allowed && name.len() <= 63 && !name.starts_with("pg_")
}

/// The result of one read of the store.
#[derive(Debug, Clone)]
pub struct ReadResult {
    /// The store's clock at the read.
    pub now: Timestamp,
    /// The store that replied.
    pub store_id: StoreId,
    /// The oldest transaction that was still running at the read, or 0 if the store has none. The
    /// contract of [`SessionStore`] states which entries 0 makes unusable.
    pub xmin: u64,
    /// One row per digest, in order.
    pub rows: Vec<Row>,
}

/// The state of one digest in the store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Row {
    /// An active session.
    Alive {
        /// The session.
        session: Session,
        /// The user's epoch when the session was created, or when a revoke-all spared it. An entry
        /// ends once the user's epoch is higher.
        user_epoch: i64,
        /// The end of the grace, if the digest is the one before a rotation.
        previous_until: Option<Timestamp>,
    },
    /// A session that was revoked. Its entries must be removed.
    Revoked,
    /// An active session with a row that cannot be read. Its validation alone is Unavailable.
    Unreadable(UnreadableRow),
    /// No session, or an expired one.
    Absent,
}

/// An unreadable row of one session. An operator wrote a value that no session can hold, or the row
/// is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableRow {
    /// The session, if its id can be read.
    pub session_id: Option<SessionId>,
    /// The reason. It repeats no stored value.
    pub reason: String,
}

impl UnreadableRow {
    /// Creates an error for the row of this session, with the reason.
    #[must_use]
    pub fn new(session_id: Option<SessionId>, reason: impl Into<String>) -> Self {
        Self { session_id, reason: reason.into() }
    }
}

impl fmt::Display for UnreadableRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the row of ")?;
        match self.session_id {
            Some(id) => write!(f, "session {id}")?,
            None => f.write_str("a session")?,
        }
        write!(f, " cannot be read ({}): correct it, or delete it to end the session", self.reason)
    }
}

impl std::error::Error for UnreadableRow {}

/// Parses the data of a row. It is `None` if the statement left out data over
/// [`MAX_DATA_BYTES`](crate::limits::MAX_DATA_BYTES).
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn parse_data(
    data: Option<String>,
) -> Result<Box<RawValue>, Box<dyn std::error::Error + Send + Sync>> {
    let data = data.ok_or("its data is over 64 KiB")?;
    Ok(RawValue::from_string(data)?)
}

/// The sessions that a change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The session with this token, or with this previous token within the grace of a rotation.
    Token(TokenDigest),
    /// The session with this id.
    Id(SessionId),
    /// The session with this id, if it belongs to this user.
    OwnedBy(SessionId, String),
    /// The sessions with these ids, of any user: at most
    /// [`MAX_REVOKED_IDS`](crate::limits::MAX_REVOKED_IDS).
    Ids(Vec<SessionId>),
    /// All sessions of this user, except one if `keep` is set.
    User {
        /// The user.
        user_id: String,
        /// The session that is spared.
        keep: Option<SessionId>,
    },
}

/// What a store keeps with the sessions that a revocation ends, for operators. No promise depends
/// on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RevocationNote {
    /// Why the sessions ended (`ended_reason`).
    pub reason: String,
    /// Who ended them (`ended_by`), if that is known.
    pub actor: Option<String>,
}

impl RevocationNote {
    /// Creates a note with this reason, without an actor.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), actor: None }
    }

    /// Sets who ends the sessions.
    #[must_use]
    pub fn by(self, actor: impl Into<String>) -> Self {
        Self { actor: Some(actor.into()), ..self }
    }
}

impl From<&str> for RevocationNote {
    fn from(reason: &str) -> Self {
        Self::new(reason)
    }
}

/// The result of a revocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revoked {
    /// The number of sessions that were active and have ended.
    pub ended: u64,
    /// The number of sessions found, ended ones included.
    pub found: u64,
    /// Their present and former digests, whose entries must be removed.
    pub digests: Vec<TokenDigest>,
    /// Whether `digests` has all digests under which there may be entries. If not, only the journal
    /// ends the other entries.
    pub complete: bool,
    /// The user, if raising an epoch ended the sessions. [`SessionStore::end_rows`] then has work
    /// to do.
    pub user: Option<EndedUser>,
}

impl Revoked {
    /// Returns the result of a revocation that found no session. The fields are public.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { ended: 0, found: 0, digests: Vec::new(), complete: true, user: None }
    }
}

/// A user whose sessions of all earlier epochs have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedUser {
    /// The user.
    pub user_id: String,
    /// The user's new epoch. Sessions with a lower one have ended.
    pub epoch: i64,
    /// The transaction that raised it.
    pub xid: u64,
}

/// The result of one sweep of users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserSweep {
    /// The number of users removed.
    pub removed: u64,
    /// The last user that was examined, or `None` if there are no more.
    pub last: Option<String>,
}

/// The cache from which a node serves entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRegistration {
    /// The id of the registration. A node that changes its cache makes a new one.
    pub id: RegistrationId,
    /// The node's cache.
    pub cache: CacheId,
    /// How long the registration is valid. This is at least as long as the node may serve entries
    /// without contact to the store.
    pub lasts: Duration,
}

/// The result of a change to one session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Change {
    /// A change that was made.
    Made {
        /// The session after the change.
        session: Session,
        /// Its present and former digests, whose entries must be removed.
        digests: Vec<TokenDigest>,
    },
    /// A conflict. Another request has changed or rotated the session since it was read, and
    /// nothing was changed.
    Conflict,
    /// No active session matches, and nothing was changed.
    NoSession,
}

/// The result of a creation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Creation {
    /// The new session.
    Created(Session),
    /// A revoke-all of the user's sessions during this login. Nothing was created.
    Superseded,
    /// An existing session with this digest. Nothing was created.
    AlreadyExists,
}

/// The state of one pool of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The name, which says what the connections are for.
    pub name: &'static str,
    /// The maximum of connections.
    pub max: u32,
    /// The connections that are in use, being opened, or being closed.
    pub used: u32,
    /// The connections that are idle.
    pub idle: u32,
    /// The number of callers that wait for one.
    pub pending: u32,
}

impl PoolStatus {
    /// Creates the status of a pool without connections. The fields are public.
    #[must_use]
    pub const fn new(name: &'static str, max: u32) -> Self {
        Self { name, max, used: 0, idle: 0, pending: 0 }
    }
}

/// A position in the journal of one life of a store: the part that has been read.
///
/// It is a snapshot, not a time or the last id, which would miss the row of a transaction that
/// commits late. It means nothing in another life, whose journal is read from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalPosition {
    /// The life of the store that it belongs to.
    pub store_id: StoreId,
    /// The changes that the last complete read has seen, as the store prints them (Postgres: a
    /// snapshot). Empty if there was no read.
    pub seen: Box<str>,
    /// The last page of an unfinished read of several pages.
    pub page: Option<JournalPage>,
}

/// The progress of a read of several pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPage {
    /// The snapshot of the first page, which becomes the position after the last page.
    pub snapshot: Box<str>,
    /// The last row so far: its transaction and its number.
    pub after: (u64, i64),
    /// The number of rows of that transaction that the read has returned so far.
    pub of_transaction: usize,
}

/// One row of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// The transaction that made the change.
    pub xid: u64,
    /// The change.
    pub change: JournalChange,
}

/// One change in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalChange {
    /// A change of one session.
    Session {
        /// The session.
        id: SessionId,
        /// The digests before the change.
        digests: Vec<TokenDigest>,
        /// The lowest version that is current, or `None` if the session has ended.
        least_version: Option<i64>,
    },
    /// The end of all sessions of one user with a lower epoch.
    User {
        /// The user.
        user_id: String,
        /// The user's new epoch.
        epoch: i64,
    },
    /// The end of all sessions that existed before this transaction (TRUNCATE). Entries are
    /// rejected unless their `xmin` is higher.
    All,
}

/// One page of a read of the journal.
#[derive(Debug, Clone)]
pub struct JournalRead {
    /// The life of the store that was read.
    pub store_id: StoreId,
    /// The changes that the position had not seen. Applying one twice does no harm.
    pub rows: Vec<JournalRow>,
    /// The position of the next read.
    pub next: JournalPosition,
    /// The floor: rows of lower transactions may have been purged. Entries with a lower `xmin` are
    /// rejected.
    pub floor: u64,
    /// The store's clock, at the beginning of the read or later.
    pub now: Timestamp,
}

impl JournalRead {
    /// Returns whether this was the last page of the read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.next.page.is_none()
    }
}

/// A store of sessions: `PostgresStore`, `SqliteStore` (feature `sqlite`), or your own.
///
/// This trait and the types that only it uses are outside of semantic versioning until 1.0. Any
/// release may change them, because the protocol may need more of a store.
///
/// `conformance::run` of the crate `session-testkit` checks this contract with its `store_checks`.
///
/// # Methods
///
/// | method | required | effect of the default |
/// |---|---|---|
/// | `load`, `login_snapshot`, `touch`, `list`, `digests` | yes | |
/// | `create`, `revoke`, `update`, `rotate` | yes | |
/// | `journal_since`, `backend`, `probe`, `close` | yes | |
/// | `end_rows` | no | rows that a revoke-all has ended are not marked as revoked |
/// | `register_node`, `forget_node`, `is_one_cache` | no | no change is [`Propagated`] |
/// | `max_concurrent_reads`, `max_concurrent_changes` | no | 4 each |
/// | `purge_journal` | no | the journal grows without a limit |
/// | `sweep`, `sweep_users` | no | ended sessions and their users stay for ever |
/// | `pools` | no | metrics show no pool |
/// | `erase_sessions` | no | [`Sessions::erase_user`](crate::Sessions::erase_user) is an error |
/// | `is_exclusive` | no | the journal is read, and other processes may have entries |
///
/// [`Propagated`]: crate::Visibility::Propagated
///
/// Implement `register_node`, `forget_node` and `is_one_cache` together. A store that returns
/// `true` without the registrations makes changes `Propagated` that are not.
///
/// # Errors
///
/// An error reports an outage. A result such as "no such session" is an `Ok`.
/// [`StoreErrorKind::Uncertain`] is for a change
/// whose reply was lost after it was sent. The only error that is no outage is
/// [`StoreErrorKind::Input`], for a value that the
/// store cannot hold.
///
/// # Deadlines
///
/// Every asynchronous method limits its own duration. The engine cancels a call that does not end:
///
/// | call | cancelled after |
/// |---|---|
/// | `load`, `touch`, `forget_node` | 2 s, or the [validation timeout] if that is longer |
/// | `is_one_cache` | the validation timeout, 250 ms by default |
/// | `probe` | 0.9 s |
/// | `close` | the deadline of [`Sessions::shutdown`](crate::Sessions::shutdown) |
/// | all others | 90 s |
///
/// [validation timeout]: crate::SessionsBuilder::validation_timeout
///
/// A cancelled call has failed, and so has a call that panics. A change then counts as `Uncertain`.
/// A failed `is_one_cache` counts as `false`. If it is always slow, no change is `Propagated`, and
/// no error reports it. The calls of background loops are also cancelled when the engine ends.
///
/// # The journal and entries
///
/// An entry keeps the [`xmin`](ReadResult::xmin) of its read. A node rejects the entry in two
/// cases: `xmin` is below the [`floor`](JournalRead::floor) of the journal, or not above the `xid`
/// of the last [`JournalChange::All`]. A node whose changed set exceeds 400,000 sessions and users
/// raises the floor itself. A store that returns 0 as `xmin` and a positive floor never has a hit.
/// Only an [exclusive](Self::is_exclusive) store, whose journal is not read, can do without `xmin`.
pub trait SessionStore: Send + Sync + 'static {
    /// Reads many digests at once, in one statement. A row that cannot be read is
    /// [`Row::Unreadable`], and the others are still returned. Without digests the call reads the
    /// store's id and clock.
    fn load(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<ReadResult, StoreError>> + Send;

    /// Reads the present state of the store, which a login records when it begins.
    fn login_snapshot(&self) -> impl Future<Output = Result<LoginSnapshot, StoreError>> + Send;

    /// Creates a session under `digest`, unless a revoke-all of the user came after the login
    /// [began](ValidatedSession::begun). Without that moment, the login begins with this call.
    fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> impl Future<Output = Result<Creation, StoreError>> + Send;

    /// Reads the digests of the session, whether it is active or has ended. Their keys are fenced
    /// before the change, and removed after it, even if its reply is lost. If there are none, there
    /// is no such session, and the change ends here. The engine never calls this for
    /// [`Target::User`]. A user may have a million digests, which are read after the change.
    fn digests(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<Vec<TokenDigest>, StoreError>> + Send;

    /// Revokes the sessions. Revoking a session that has ended is no error.
    fn revoke(
        &self,
        target: &Target,
        note: &RevocationNote,
    ) -> impl Future<Output = Result<Revoked, StoreError>> + Send;

    /// Replaces the data, if the session is active and still has this version.
    fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Gives the session under `old` the digest `new`. `old` remains valid for `grace`. A second
    /// rotation of the same token is a [`Change::Conflict`].
    fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Records that the session is in use, if it is active by the store's clock. Moves
    /// `last_seen_at` to now, unless it moved less than `granularity` ago. Returns the resulting
    /// session. Returns [`Change::Conflict`] if the row is locked or changes meanwhile. The session
    /// is then served without a touch, and its next use tries again.
    fn touch(
        &self,
        id: SessionId,
        granularity: Duration,
    ) -> impl Future<Output = Result<Change, StoreError>> + Send;

    /// Returns at most `limit` of the user's active sessions, newest first. Of those created at the
    /// same moment, the greatest id comes first. The page begins at the start or after `after`. The
    /// work is bounded by `limit`, and no session's data is read.
    fn list(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> impl Future<Output = Result<SessionPage, StoreError>> + Send;

    /// Reads one page of the journal of the present life. It contains the changes that `position`
    /// has not seen, or all if there is no position or it is of another life. Rows and the next
    /// position come from one statement.
    fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> impl Future<Output = Result<JournalRead, StoreError>> + Send;

    /// Marks the next rows of a user's sessions as revoked, after [`revoke`](Self::revoke) has
    /// ended the sessions by the user's epoch. Returns the place at which to continue, or `None` at
    /// the end. It is for operators who read the rows, and no promise depends on it. Defaults to
    /// doing nothing.
    fn end_rows(
        &self,
        _user: &EndedUser,
        _note: &RevocationNote,
        _after: Option<ListCursor>,
    ) -> impl Future<Output = Result<Option<ListCursor>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Records from which cache a node serves entries, or that it still does. The record is durable
    /// when this returns. Returns in which life it was recorded, if the store has more than one.
    /// Defaults to recording nothing.
    fn register_node(
        &self,
        _node: &NodeRegistration,
    ) -> impl Future<Output = Result<Option<StoreId>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Removes a registration, after the node has stopped serving from that cache. Defaults to
    /// doing nothing.
    fn forget_node(
        &self,
        _id: RegistrationId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Returns whether all registered nodes serve from this cache, as of a moment within this call.
    /// Only then does an UNLINK there reach every node. A call that exceeds the validation timeout
    /// counts as `false`. Defaults to `false`, because a store that records no nodes cannot know.
    fn is_one_cache(
        &self,
        _cache: &CacheId,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(false))
    }

    /// Returns the maximum of concurrent [`load`](Self::load)s, unless [set
    /// otherwise](crate::SessionsBuilder::max_concurrent_reads). Few are enough, because reads get
    /// larger instead of more numerous under load. Defaults to 4.
    fn max_concurrent_reads(&self) -> usize {
        4
    }

    /// Returns the maximum of concurrent calls of one kind: a creation, a change, the look-up
    /// before it, a list. It is below the number of connections, so that the other kinds find one
    /// too. Defaults to 4.
    fn max_concurrent_changes(&self) -> usize {
        4
    }

    /// Removes journal rows of changes older than `keep`. Returns the number of rows.
    ///
    /// [`JournalRead::floor`] rises past them at the same moment, and never past a transaction that
    /// is still running. Defaults to removing nothing.
    fn purge_journal(
        &self,
        _keep: Duration,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        std::future::ready(Ok(0))
    }

    /// Deletes at most `most` sessions that ended or expired longer ago than `retention`. Returns
    /// the number. It writes no journal rows. Defaults to deleting nothing.
    fn sweep(
        &self,
        _retention: Duration,
        _most: u32,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        std::future::ready(Ok(0))
    }

    /// Deletes at most `most` rows of the user's sessions that have ended, whenever that was.
    /// Returns the number, which is below `most` at the end. It writes no journal rows. The user's
    /// epoch stays for as long as a login in progress may need it. Defaults to an error.
    fn erase_sessions(
        &self,
        _user_id: &str,
        _most: u32,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        let why = "this store cannot erase a user: delete the rows of the user in it yourself";
        std::future::ready(Err(StoreError::new(StoreErrorKind::Other, why)))
    }

    /// Examines the next `most` users after `after`. Removes those without a session for
    /// `retention`, unless a login in progress needs them. Defaults to removing nothing.
    fn sweep_users(
        &self,
        _retention: Duration,
        _after: Option<&str>,
        _most: u32,
    ) -> impl Future<Output = Result<UserSweep, StoreError>> + Send {
        std::future::ready(Ok(UserSweep::default()))
    }

    /// Returns whether no other process can change or read the store. Then its journal is not read,
    /// and no other process has entries
    /// ([`Invalidated::InThisProcess`](crate::cache::Invalidated)). Defaults to `false`.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Returns the pools of connections, for metrics. The number and the names of pools never
    /// change. Defaults to none.
    fn pools(&self) -> Vec<PoolStatus> {
        Vec::new()
    }

    /// Returns the backend's name for the health document, such as `"postgres"` or `"sqlite"`. Only
    /// for `"postgres"` can the document's `postgres.connected` be `true`.
    fn backend(&self) -> &'static str;

    /// Returns what an operator should know that is no failure, for the health document. Defaults
    /// to nothing.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Checks whether the store can return authoritative replies now, for readiness.
    fn probe(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Closes idle connections that the store can open again, because this node pauses. An open
    /// connection keeps some databases from scaling to zero. Connections that are in use are closed
    /// when they become idle, unless they are wanted. Must send no statement. Defaults to closing
    /// nothing.
    fn close_idle(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Closes connections that the store opened itself.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
