//! One connection, one transaction after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind as Kind};
use crate::store::StoreId;

/// How long a call may take, waiting for its turn included.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None` once it is closed.
    connection: Mutex<Option<SqliteConnection>>,
    store_id: StoreId,
    /// How many times all of a user's sessions were revoked, ever: the number of the last one whose
    /// commit is over.
    raises: AtomicI64,
}

/// What a transaction gets.
pub(super) struct Turn<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    /// The time, read when the transaction had begun.
    pub(super) now: Timestamp,
    pub(super) raises: Raises<'c>,
}

/// The numbers of revoke-alls, as a transaction has them.
pub(super) struct Raises<'c>(&'c mut i64);

impl Raises<'_> {
    /// The number of the next revoke-all. Nobody else hears of it before the commit is over: a login that
    /// begins until then is one during the revoke-all, not after it.
    pub(super) fn next(&mut self) -> i64 {
        *self.0 += 1;
        *self.0
    }
}

impl Turns {
    pub(super) async fn new(mut connection: SqliteConnection) -> Result<Self, sqlx::Error> {
        let id: Vec<u8> = sqlx::query_scalar("SELECT id FROM session_store")
            .fetch_one(&mut connection)
            .await?;
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

    /// The number of the last revoke-all: a login that begins now is refused if a later one raises
    /// the user's epoch before its turn comes.
    pub(super) fn raises(&self) -> i64 {
        self.0.raises.load(Ordering::SeqCst)
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(Turn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.take(work, false).await
    }

    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(Turn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.take(work, true).await
    }

    /// Runs `work` in a transaction, in a task of its own: a caller that goes away must not leave one
    /// open for the next.
    async fn take<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(Turn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
        change: bool,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.0);
        let turn = tokio::spawn(async move {
            let mut held = shared.connection.lock().await;
            let connection = held.as_mut().ok_or_else(closed)?;
            run(connection, &shared.raises, work)
                .await
                .map_err(|error| failed(error, change))
        });
        match timeout(DEADLINE, turn).await {
            Ok(Ok(done)) => done,
            Ok(Err(stopped)) => Err(StoreError::new(
                if change { Kind::Uncertain } else { Kind::Other },
                "the task at the SQLite file was stopped",
            )
            .with_source(stopped)),
            Err(late) => Err(StoreError::new(
                if change {
                    Kind::Uncertain
                } else {
                    Kind::TimedOut
                },
                format!("SQLite did not answer within {DEADLINE:?}: is its disk slow or full?"),
            )
            .with_source(late)),
        }
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.0.connection.lock().await.take() {
            // What is on disk is complete already; this only tidies up beside it.
            let _ = timeout(DEADLINE, connection.close()).await;
        }
    }
}

async fn run<T>(
    connection: &mut SqliteConnection,
    raises: &AtomicI64,
    work: impl for<'c> FnOnce(Turn<'c>) -> BoxFuture<'c, Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Only this turn changes it, so nobody has the same number.
    let mut number = raises.load(Ordering::SeqCst);
    let done = work(Turn {
        connection: &mut transaction,
        now: Timestamp::now(),
        raises: Raises(&mut number),
    })
    .await?;
    let committed = transaction.commit().await;
    // Also where the commit failed: should it have been made all the same, the user's next login would
    // be refused for ever. Otherwise the number goes unused.
    raises.store(number, Ordering::SeqCst);
    committed?;
    Ok(done)
}

fn closed() -> StoreError {
    StoreError::new(Kind::Unreachable, "the store is closed")
}

/// A code of `SQLite`'s is definite: the transaction was rolled back.
pub(super) fn failed(error: sqlx::Error, change: bool) -> StoreError {
    let code = match &error {
        sqlx::Error::Database(database) => database.code().unwrap_or_default().into_owned(),
        _ => String::new(),
    };
    let (kind, message) = match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(5 | 6) => (Kind::TimedOut, "the SQLite file is locked"),
        Ok(8) => (Kind::Denied, "the SQLite file may not be written"),
        Ok(10 | 13) => (
            Kind::Other,
            "the disk of the SQLite file is full or failing",
        ),
        Ok(11 | 26) => (Kind::Schema, "the SQLite file is damaged"),
        Ok(_) => (Kind::Other, "SQLite reported an error"),
        Err(_) if change => (Kind::Uncertain, "the SQLite file was lost sight of"),
        Err(_) => (
            Kind::Schema,
            "the SQLite file says something else than was asked: were its tables changed?",
        ),
    };
    StoreError::new(kind, message).with_source(error)
}
