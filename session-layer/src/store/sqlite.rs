//! The store in an `SQLite` file, for one process: development, tests, small applications.
//!
//! | file | what |
//! |---|---|
//! | `file.rs` | opening the file for ourselves alone, and its tables |
//! | `turns.rs` | one connection, one transaction after the other |
//! | `record.rs` | a row, and whether the session in it is alive |
//! | `read.rs`, `change.rs` | the operations |
//! | `housekeeping.rs` | what is old goes |
//!
//! One clock counts: this machine's wall clock, read when a transaction has begun.

use std::path::Path;
use std::time::Duration;

use serde_json::value::RawValue;

use self::turns::Turns;
use super::{
    Change, Creation, JournalPosition, JournalRead, Loaded, Revoked, SessionStore, Target,
};
use crate::error::StoreError;
use crate::session::{CheckedSession, ListedSession, LoginMoment, SessionId};
use crate::token::TokenDigest;

mod change;
mod file;
mod housekeeping;
mod read;
mod record;
mod turns;

/// Sessions in an `SQLite` file, which it keeps for itself. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), session_layer::StoreError> {
/// use session_layer::store::SqliteStore;
///
/// let store = SqliteStore::open(":memory:").await?;
/// # let _ = store;
/// # Ok(()) }
/// ```
///
/// A call that is dropped half-way is finished all the same.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    turns: Turns,
}

impl SqliteStore {
    /// Opens the file at `path`, creates it if it is missing, and brings its tables up to date.
    /// `:memory:` is a store that is gone with its last clone.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be opened or is no `SQLite` file, and when another process
    /// has it: `SQLite` is for one process.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self {
            turns: file::open(path.as_ref()).await?,
        })
    }
}

impl SessionStore for SqliteStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        self.load_all(digests.to_vec()).await
    }

    async fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        self.moment()
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
    ) -> Result<Creation, StoreError> {
        self.create_now(digest, new.clone()).await
    }

    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.digests_of(target.clone()).await
    }

    async fn revoke(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        self.revoke_target(target.clone(), reason.to_owned()).await
    }

    async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        self.update_data(id, version, data.get().to_owned()).await
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
        self.list_of(user_id.to_owned()).await
    }

    async fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.read_journal(position).await
    }

    /// There is one connection: a second read would wait for it outside of where reads gather.
    fn reads_at_once(&self) -> usize {
        1
    }

    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.purge(keep).await
    }

    async fn sweep(&self, retention: Duration, most: u32) -> Result<u64, StoreError> {
        self.sweep_ended(retention, most).await
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn backend(&self) -> &'static str {
        "sqlite"
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.load_all(Vec::new()).await.map(|_| ())
    }

    async fn close(&self) {
        self.turns.close().await;
    }
}
