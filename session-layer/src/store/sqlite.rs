//! The store in an `SQLite` file, for one process: development, tests, small applications.
//! | file | content |
//! |---|---|
//! | `file.rs` | exclusive opening of the file, and its tables |
//! | `connection.rs` | one connection, on which transactions are serialized |
//! | `record.rs` | a row, and whether its session is active |
//! | `read.rs`, `change.rs` | the operations |
//! | `housekeeping.rs` | removal of old rows |
//!
//! The only clock is this machine's wall clock, read after a transaction has begun.

use std::path::Path;
use std::time::Duration;

use serde_json::value::RawValue;

use self::connection::SharedConnection;
use super::{
    Change, Creation, JournalPosition, JournalRead, ReadResult, RevocationNote, Revoked,
    SessionStore, Target,
};
use crate::model::error::{ConfigError, StoreError};
use crate::model::session::{ListCursor, LoginSnapshot, SessionId, SessionPage, ValidatedSession};
use crate::model::token::TokenDigest;

mod change;
mod connection;
mod file;
mod housekeeping;
mod read;
mod record;

/// Sessions in an `SQLite` file, which the store locks for itself. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), session_layer::ConfigError> {
/// use session_layer::store::SqliteStore;
///
/// let store = SqliteStore::open(":memory:").await?;
/// # let _ = store;
/// # Ok(()) }
/// ```
///
/// A call that is cancelled still completes.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    connection: SharedConnection,
}

impl SqliteStore {
    /// Opens the file at `path`, creates it if it is missing, and brings its tables up to date.
    /// The path `:memory:` opens a store that is gone with its last clone. There are no settings.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for an empty path, which `SQLite` takes for a temporary file.
    /// [`ConfigError::Store`] if the file cannot be opened, is no `SQLite` file, or is open in
    /// another process.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() {
            let may_be = "the path of a file, or :memory:";
            return Err(ConfigError::bad("the path of SqliteStore::open", "", may_be));
        }
        Ok(Self { connection: file::open(path).await.map_err(ConfigError::Store)? })
    }
}

impl SessionStore for SqliteStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        self.load_all(digests.to_vec()).await
    }

    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.read_login_snapshot()
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        self.create_now(digest, new.clone()).await
    }

    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        self.digests_of(target.clone()).await
    }

    async fn revoke(&self, target: &Target, note: &RevocationNote) -> Result<Revoked, StoreError> {
        self.revoke_target(target.clone(), note.clone()).await
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

    async fn list(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        self.list_of(user_id.to_owned(), after, limit).await
    }

    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        self.read_journal(position.cloned()).await
    }

    /// Returns 1, because there is one connection. A second read would wait for it instead of
    /// joining the next batch of reads.
    fn max_concurrent_reads(&self) -> usize {
        1
    }

    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        self.purge(keep).await
    }

    async fn sweep(&self, retention: Duration, most: u32) -> Result<u64, StoreError> {
        self.sweep_ended(retention, most).await
    }

    async fn erase_sessions(&self, user_id: &str, most: u32) -> Result<u64, StoreError> {
        self.erase_ended(user_id.to_owned(), most).await
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
        self.connection.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn empty_path_is_refused() {
        let refused = SqliteStore::open("").await.expect_err("a temporary file");
        let expected = "the path of SqliteStore::open is ``: it may be the path of a file, or \
                        :memory:";
        assert_eq!(refused.to_string(), expected);
    }
}
