//! The store in Postgres, the source of truth.
//! | file | content |
//! |---|---|
//! | `builder.rs` | the settings, and a pool of our own |
//! | `schema.rs`, `fragments.rs`, `statements.rs` | the schema's name, and the statements |
//! | `connection.rs`, `pool.rs`, `application_pool.rs` | connections |
//! | `options.rs`, `hosts.rs`, `tls.rs` | which server, and how it is reached |
//! | `connect_error.rs` | why there is none |
//! | `execute.rs` | statements and deadlines |
//! | `lives.rs` | all connections lead to one run of one server |
//! | `errors.rs`, `rows.rs` | the replies, and whether they prove anything |
//! | `read.rs`, `create.rs`, `change.rs`, `revoke.rs` | the operations |
//! | `search.rs` | the search for sessions, for operators' tools |
//! | `housekeeping.rs` | the removal of old rows |
//! | `migrate.rs` | the tables |

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use self::connection::Connections;
use self::lives::Lives;
use self::schema::SchemaName;
use self::statements::Statements;
use super::{
    Change, Creation, EndedUser, JournalPosition, JournalRead, NodeRegistration, PoolStatus,
    ReadResult, RegistrationId, RevocationNote, Revoked, SessionStore, StoreId, Target, UserSweep,
};
use crate::model::error::StoreError;
use crate::model::identity::CacheId;
use crate::model::session::{ListCursor, LoginSnapshot, SessionId, SessionPage, ValidatedSession};
use crate::model::token::TokenDigest;

mod application_pool;
mod builder;
mod change;
mod connect_error;
mod connection;
mod create;
mod errors;
mod execute;
mod fragments;
mod hosts;
mod housekeeping;
mod lives;
mod migrate;
mod options;
mod other_server;
mod pool;
mod pooler;
mod read;
mod revoke;
mod rows;
mod schema;
mod search;
mod statements;
mod tls;

pub use self::builder::{DEFAULT_MAX_CONNECTIONS, PostgresStoreBuilder};
pub(crate) use self::connect_error::heals_by_waiting;
pub use self::migrate::{MigrationPlan, PlannedMigration};
pub use self::schema::grants;
pub use self::search::{Network, ParseNetworkError, SearchPage, SessionFilter, StoredSession};

/// How long a validation's read may take once it is sent, unless [set
/// otherwise](PostgresStoreBuilder::read_deadline): 200 ms, so that it fits into a request's budget
/// of 250 ms.
pub const DEFAULT_READ_DEADLINE: Duration = Duration::from_millis(200);
/// How long a change may take unless [set otherwise](PostgresStoreBuilder::change_deadline): 2 s. A
/// change waits for locks, and giving up on one leaves open whether it was made.
pub const DEFAULT_CHANGE_DEADLINE: Duration = Duration::from_secs(2);

/// Sessions in Postgres 13 or newer. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use session_layer::store::PostgresStore;
///
/// let store = PostgresStore::builder("postgres://app@db.internal/app").schema("auth").build()?;
/// store.migrate().await?;
/// # Ok(()) }
/// ```
///
/// Every call ends within its deadline. A call that is cancelled costs one connection, and its
/// place in the pool becomes free.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    connections: Connections,
    /// The connections of validations and touches. In a pool of the store's own they are separate.
    reading: Connections,
    /// The connection of the journal's reader. It is separate in a pool of the store's own. No wait
    /// for a lock or for Postgres then delays the journal.
    journal: Connections,
    lives: Arc<Lives>,
    max_concurrent_reads: usize,
    max_concurrent_changes: usize,
    schema: SchemaName,
    statements: Arc<Statements>,
    read_deadline: Duration,
    change_deadline: Duration,
    pooled: bool,
    /// The warning about a certificate that is not verified.
    tls_remark: Option<&'static str>,
    /// Whether validations, changes and the journal share connections of our own pool.
    shared: bool,
}

impl PostgresStore {
    fn over(connections: Connections, schema: SchemaName) -> Self {
        let most = usize::try_from(connections.most()).unwrap_or(usize::MAX);
        Self {
            reading: connections.clone(),
            journal: connections.clone(),
            lives: Arc::default(),
            max_concurrent_reads: (most / 2).max(1),
            max_concurrent_changes: (most / 2).max(1),
            connections,
            statements: Arc::new(Statements::new(&schema)),
            schema,
            read_deadline: DEFAULT_READ_DEADLINE,
            change_deadline: DEFAULT_CHANGE_DEADLINE,
            pooled: false,
            tls_remark: None,
            shared: false,
        }
    }
}

impl PostgresStore {
    /// Opens a connection outside of the pool, with the store's settings. It is for tools that
    /// check a deployment, such as session-testkit. It is hidden because it shows the version of
    /// sqlx.
    ///
    /// # Errors
    /// [`StoreError`] with the cause, and what to do.
    #[doc(hidden)]
    pub async fn connect(&self) -> Result<sqlx::PgConnection, StoreError> {
        self.connections.connect().await
    }
}

impl SessionStore for PostgresStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        self.load_all(digests).await
    }

    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.read_login_snapshot().await
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        self.create_new(digest, new).await
    }

    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.digests_of(target).await
    }

    async fn revoke(&self, target: &Target, note: &RevocationNote) -> Result<Revoked, StoreError> {
        self.revoke_target(target, note).await
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

    async fn list(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        self.list_of(user_id, after, limit).await
    }

    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.read_journal(position).await
    }

    async fn end_rows(
        &self,
        user: &EndedUser,
        note: &RevocationNote,
        after: Option<ListCursor>,
    ) -> Result<Option<ListCursor>, StoreError> {
        self.end_page(user, note, after).await
    }

    async fn register_node(&self, node: &NodeRegistration) -> Result<Option<StoreId>, StoreError> {
        self.register(node).await
    }

    async fn forget_node(&self, id: RegistrationId) -> Result<(), StoreError> {
        self.forget(id).await
    }

    async fn is_one_cache(&self, cache: &CacheId) -> Result<bool, StoreError> {
        self.one_cache(cache).await
    }

    /// Returns half of the connections, less one for touches in a pool of the store's own. The rest
    /// serve changes, the journal, and the application's statements in its pool.
    fn max_concurrent_reads(&self) -> usize {
        self.max_concurrent_reads
    }

    /// Returns all connections for changes but one in a pool of the store's own, and half of them
    /// in the application's pool.
    fn max_concurrent_changes(&self) -> usize {
        self.max_concurrent_changes
    }

    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.purge(keep).await
    }

    async fn sweep(&self, retention: Duration, most: u32) -> Result<u64, StoreError> {
        self.sweep_ended(retention, most).await
    }

    async fn erase_sessions(&self, user_id: &str, most: u32) -> Result<u64, StoreError> {
        self.erase_ended(user_id, most).await
    }

    async fn sweep_users(
        &self,
        retention: Duration,
        after: Option<&str>,
        most: u32,
    ) -> Result<UserSweep, StoreError> {
        self.sweep_idle_users(retention, after, most).await
    }

    fn pools(&self) -> Vec<PoolStatus> {
        if !self.connections.is_own() {
            return vec![self.connections.status("application")];
        }
        let Self { reading, connections, journal, .. } = self;
        // With few connections, changes share their pool.
        let mut pools = vec![connections.status("changes")];
        for (pool, name) in [(reading, "validations"), (journal, "journal")] {
            if !pool.is_same(connections) {
                pools.push(pool.status(name));
            }
        }
        pools
    }

    fn backend(&self) -> &'static str {
        "postgres"
    }

    fn remarks(&self) -> Vec<String> {
        let remarks = [self.tls_remark, self.shared.then_some(builder::SHARED)];
        remarks.into_iter().flatten().map(str::to_owned).collect()
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.check_authoritative().await
    }

    async fn close_idle(&self) {
        for pool in [&self.reading, &self.journal, &self.connections] {
            pool.close_idle();
        }
    }

    async fn close(&self) {
        tokio::join!(self.reading.close(), self.journal.close(), self.connections.close());
    }
}
