//! One connection, on which transactions are serialized.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::record::is_of_a_row;
use crate::model::clock::Timestamp;
use crate::model::error::{StoreError, StoreErrorKind as Kind};
use crate::store::StoreId;

/// How long a call may take, including the wait for the connection.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(super) struct SharedConnection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The connection, or `None` once it is closed.
    connection: Mutex<Option<SqliteConnection>>,
    store_id: StoreId,
    /// The number of the last revoke-all whose commit has ended.
    raises: AtomicI64,
}

/// The parameters of a transaction.
pub(super) struct ConnectionTurn<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    /// The time, read after the transaction began.
    pub(super) now: Timestamp,
    pub(super) raises: Raises<'c>,
}

/// The numbers of revoke-alls within a transaction.
pub(super) struct Raises<'c>(&'c mut i64);

impl Raises<'_> {
    /// Returns the number of the next revoke-all. Other calls see it only after the commit has
    /// ended. A login that begins before that counts as one during the revoke-all.
    pub(super) fn next(&mut self) -> i64 {
        *self.0 += 1;
        *self.0
    }
}

impl SharedConnection {
    pub(super) async fn new(mut connection: SqliteConnection) -> Result<Self, sqlx::Error> {
        let id: Vec<u8> =
            sqlx::query_scalar("SELECT id FROM session_store").fetch_one(&mut connection).await?;
        let raises = sqlx::query_scalar("SELECT coalesce(max(raised_by), 0) FROM session_users")
            .fetch_one(&mut connection)
            .await?;
        Ok(Self(Arc::new(Shared {
            connection: Mutex::new(Some(connection)),
            store_id: id
                .as_slice()
                .try_into()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            raises: AtomicI64::new(raises),
        })))
    }

    pub(super) fn store_id(&self) -> StoreId {
        self.0.store_id
    }

    /// Returns the number of the last revoke-all. A login that begins now is rejected if a later
    /// one raises the user's epoch before the creation runs.
    pub(super) fn raises(&self) -> i64 {
        self.0.raises.load(Ordering::SeqCst)
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(ConnectionTurn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        self.run_in_task(work, false).await
    }

    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(ConnectionTurn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        self.run_in_task(work, true).await
    }

    /// Runs `work` in a transaction, in a task of its own, so that a caller that leaves does not
    /// leave one open for the next.
    async fn run_in_task<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(ConnectionTurn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + 'static,
        change: bool,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.0);
        let turn = tokio::spawn(async move {
            let mut held = shared.connection.lock().await;
            let connection = held.as_mut().ok_or_else(closed)?;
            run(connection, &shared.raises, work).await.map_err(|error| failed(error, change))
        });
        match timeout(DEADLINE, turn).await {
            Ok(Ok(done)) => done,
            Ok(Err(stopped)) => Err(StoreError::new(
                if change { Kind::Uncertain } else { Kind::Other },
                "the task that uses the SQLite file was stopped: try again",
            )
            .with_source(stopped)),
            Err(late) => Err(StoreError::new(
                if change { Kind::Uncertain } else { Kind::TimedOut },
                format!("SQLite did not reply within {DEADLINE:?}: check its disk"),
            )
            .with_source(late)),
        }
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.0.connection.lock().await.take() {
            // The data on disk is complete already. This only removes auxiliary files.
            let _ = timeout(DEADLINE, connection.close()).await;
        }
    }
}

async fn run<T>(
    connection: &mut SqliteConnection,
    raises: &AtomicI64,
    work: impl for<'c> FnOnce(ConnectionTurn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Only this transaction changes it, so the number is unique.
    let mut number = raises.load(Ordering::SeqCst);
    let done = work(ConnectionTurn {
        connection: &mut transaction,
        now: Timestamp::now(),
        raises: Raises(&mut number),
    })
    .await?;
    let committed = transaction.commit().await;
    // The number also counts if the commit failed. If the commit was made all the same, an unused
    // number would reject the user's next login for ever. Otherwise the number remains unused.
    raises.store(number, Ordering::SeqCst);
    committed?;
    Ok(done)
}

fn closed() -> StoreError {
    StoreError::new(Kind::Unreachable, "the store is closed")
}

/// Returns the store error for an error of `SQLite`. A code is definite: the transaction was rolled
/// back.
pub(super) fn failed(error: sqlx::Error, change: bool) -> StoreError {
    let code = match &error {
        sqlx::Error::Database(database) => database.code().unwrap_or_default().into_owned(),
        _ => String::new(),
    };
    let (kind, message) = match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(5 | 6) => (Kind::TimedOut, "the SQLite file is locked: stop the process that has it"),
        Ok(8) => (Kind::Denied, "the SQLite file is read-only: permit writing to it"),
        Ok(10 | 13) => (Kind::Other, "the disk of the SQLite file is full or failing: check it"),
        Ok(11 | 26) => (Kind::Schema, "the SQLite file is damaged: restore or delete it"),
        Ok(18..=20) => (
            Kind::Input,
            "a constraint or a limit of the SQLite file rejects a value: pass another one",
        ),
        Ok(_) => (Kind::Other, "SQLite reported an error"),
        // After an unreadable row, the transaction is rolled back.
        Err(_) if change && !is_of_a_row(&error) => {
            (Kind::Uncertain, "the connection to the SQLite file was lost: try again")
        }
        Err(_) => (
            Kind::Schema,
            "a row of the SQLite file cannot be read: check whether its tables were changed",
        ),
    };
    StoreError::new(kind, message).with_source(error)
}
