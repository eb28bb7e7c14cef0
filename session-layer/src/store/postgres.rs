//! The store in Postgres: the truth.
//!
//! | file | what |
//! |---|---|
//! | `builder.rs` | a pool of our own |
//! | `schema.rs`, `words.rs`, `statements.rs` | the schema's name, and every statement with it in |
//! | `connection.rs`, `refusal.rs`, `ask.rs` | connections and deadlines: nothing waits for ever, nothing leaks |
//! | `errors.rs`, `rows.rs` | what comes back, and whether it is the truth |
//! | `read.rs`, `create.rs`, `change.rs`, `revoke.rs` | the operations |
//! | `housekeeping.rs` | what is old goes |
//! | `migrate.rs` | the tables |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::PgPool;

use self::connection::Connections;
use self::schema::SchemaName;
use self::statements::Statements;
use super::{
    Change, Creation, JournalPosition, JournalRead, Loaded, Revoked, SessionStore, Target,
};
use crate::deadline::LONGEST_DEADLINE;
use crate::error::StoreError;
use crate::session::{CheckedSession, ListedSession, LoginMoment, SessionId};
use crate::token::TokenDigest;

mod ask;
mod builder;
mod change;
mod connection;
mod create;
mod errors;
mod housekeeping;
mod migrate;
mod read;
mod refusal;
mod revoke;
mod rows;
mod schema;
mod statements;
mod words;

pub use self::builder::PostgresStoreBuilder;
pub use self::schema::InvalidSchemaName;

/// How long a validation's read may take once it is sent, unless [told otherwise](PostgresStore::read_deadline): 200 ms, so that
/// it fits into a request's budget of 250 ms.
pub const READ_DEADLINE: Duration = Duration::from_millis(200);
/// How long a change may take unless [told otherwise](PostgresStore::change_deadline): 2 s. A change
/// waits for locks, and giving up on one leaves open whether it was made.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(2);

/// Sessions in Postgres 13 or newer. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), session_layer::StoreError> {
/// use session_layer::store::PostgresStore;
///
/// let store = PostgresStore::connect("postgres://app@db.internal/app").await?;
/// store.migrate().await?;
/// # Ok(()) }
/// ```
///
/// Every call ends within its deadline, and a call that is dropped half-way costs one connection,
/// never a place in the pool.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    connections: Connections,
    /// Those for validations, and the touches that these make: their own where the pool is ours.
    reading: Connections,
    /// That of the journal's reader: its own where the pool is ours, so that nothing that waits for a lock, or
    /// for Postgres, keeps a node from learning what others changed.
    journal: Connections,
    /// How many ms a read of the journal may take.
    journal_patience: Arc<AtomicU64>,
    /// Postgres has refused to tell its timeline or its last checkpoint (some managed ones do).
    life_untold: Arc<AtomicBool>,
    reads_at_once: usize,
    schema: SchemaName,
    statements: Arc<Statements>,
    read_deadline: Duration,
    change_deadline: Duration,
    pooled: bool,
}

impl PostgresStore {
    /// A store with a pool of its own at `url` (`postgres://user:password@host/database`), to be
    /// configured.
    pub fn builder(url: &str) -> PostgresStoreBuilder {
        PostgresStoreBuilder::new(url)
    }

    /// A store with a pool of its own at `url`, everything at its default, after making sure that
    /// Postgres answers there. It does not look at our tables: see [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// [`StoreError`] with the reason, when the URL cannot be read or Postgres does not let us in.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let store = Self::builder(url).connect_lazy()?;
        store.reach().await?;
        Ok(store)
    }

    /// A store that uses the application's own pool, in the schema `session_layer`.
    ///
    /// Its settings are the application's: set `statement_timeout` and `lock_timeout` there (below
    /// [`CHANGE_DEADLINE`]), so that what we stop waiting for stops in Postgres too. The pool is left
    /// open by [`close`](SessionStore::close).
    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        Self::over(Connections::new(pool, false), SchemaName::default())
    }

    fn over(connections: Connections, schema: SchemaName) -> Self {
        let most = usize::try_from(connections.most()).unwrap_or(usize::MAX);
        Self {
            reading: connections.clone(),
            journal: connections.clone(),
            journal_patience: Arc::default(),
            life_untold: Arc::default(),
            reads_at_once: (most / 2).max(1),
            connections,
            statements: Arc::new(Statements::new(&schema)),
            schema,
            read_deadline: READ_DEADLINE,
            change_deadline: CHANGE_DEADLINE,
            pooled: false,
        }
    }

    /// Which schema our tables are in. Defaults to `session_layer`.
    ///
    /// # Errors
    /// [`InvalidSchemaName`] for anything but `[a-z_][a-z0-9_]{0,62}`.
    pub fn schema(self, name: &str) -> Result<Self, InvalidSchemaName> {
        let schema: SchemaName = name.parse()?;
        Ok(Self {
            statements: Arc::new(Statements::new(&schema)),
            schema,
            ..self
        })
    }

    /// Set it where the pool's connections go through a pooler in transaction mode, such as
    /// `PgBouncer` (the pool itself needs `statement_cache_capacity(0)` then). Each statement has a
    /// transaction of its own, at three more round trips. Defaults to `false`.
    #[must_use]
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.pooled = pooled;
        self
    }

    /// How long a validation's read waits for a connection, and once it is sent for the answer. At most a minute;
    /// defaults to [`READ_DEADLINE`]. For a store over the application's pool: where the pool is ours, Postgres was told
    /// the [builder's](PostgresStoreBuilder::read_deadline), and ends a validation then.
    #[must_use]
    pub fn read_deadline(mut self, deadline: Duration) -> Self {
        self.read_deadline = deadline.min(LONGEST_DEADLINE);
        self
    }

    /// How long a change may take, waiting for a connection included; at most a minute. Defaults to
    /// [`CHANGE_DEADLINE`].
    #[must_use]
    pub fn change_deadline(mut self, deadline: Duration) -> Self {
        self.change_deadline = deadline.min(LONGEST_DEADLINE);
        self
    }
}

impl SessionStore for PostgresStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        self.load_all(digests).await
    }

    async fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        self.moment().await
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
    ) -> Result<Creation, StoreError> {
        self.create_new(digest, new).await
    }

    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.digests_of(target).await
    }

    async fn revoke(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        self.revoke_target(target, reason).await
    }

    async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        self.update_data(id, version, data).await
    }

    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        self.rotate_token(old, new, grace).await
    }

    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        self.touch_session(id, granularity).await
    }

    async fn list(&self, user_id: &str) -> Result<Vec<ListedSession>, StoreError> {
        self.list_of(user_id).await
    }

    async fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.read_journal(position).await
    }

    /// Half of the connections, where the pool is ours less one for touches: the rest is for changes and the
    /// journal and, in a pool of the application's, for its own statements.
    fn reads_at_once(&self) -> usize {
        self.reads_at_once
    }

    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.purge(keep).await
    }

    async fn sweep(&self, retention: Duration, most: u32) -> Result<u64, StoreError> {
        self.sweep_ended(retention, most).await
    }

    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.probe_truth().await
    }

    async fn close(&self) {
        tokio::join!(
            self.reading.close(),
            self.journal.close(),
            self.connections.close()
        );
    }
}
