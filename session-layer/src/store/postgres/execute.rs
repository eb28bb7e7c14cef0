//! Execution of one statement under a deadline, from a connection to its rows.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::types::Uuid;
use sqlx::{Connection as _, Row as _, SqlStr};
use tokio::time::{Instant, timeout, timeout_at};

use super::PostgresStore;
use super::connection::{Connection, Connections};
use super::errors::{self, Progress};
use super::rows;
use crate::model::error::StoreError;

/// A statement with its parameters.
pub(super) type Statement = Query<'static, Postgres, PgArguments>;

pub(super) fn statement(sql: &SqlStr) -> Statement {
    sqlx::query(sql.clone())
}

/// The maximum of a span. In microseconds it can be added to any date that we store.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// Returns a span in microseconds, as the statements require it.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.min(LONGEST).as_micros()).unwrap_or(i64::MAX)
}

/// The beginning of a transaction that writes, even if the default is read-only.
const BEGIN_WRITING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The maximum of tries of a statement that Postgres rolls back. The next try mostly has no
/// conflict, and the call's deadline limits all of them.
pub(super) const STATEMENT_TRIES: u32 = 10;

/// The timeouts of a call, over all its tries: one for the connection, and one for the reply, from
/// when the statement is first sent.
///
/// A statement that was sent late and timed out early would continue in Postgres, beside the next
/// ones. While a lock on our tables was held, hundreds of statements ran there. Therefore a call
/// waits until Postgres itself has cancelled its statement (`statement_timeout` and `lock_timeout`,
/// see `builder.rs`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) connection: Duration,
    pub(super) reply: Duration,
}

impl Timeouts {
    /// Returns the timeouts of a change, and of a read that begins one. The reply has more time
    /// than a lock is waited for.
    fn of_change(deadline: Duration) -> Self {
        let connection = deadline * 9 / 20;
        Self { connection, reply: deadline - connection }
    }
}

impl PostgresStore {
    /// Reads with a change's timeouts, for a read that begins a change and for a user's list.
    pub(super) async fn read_for_change(
        &self,
        query: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let timeouts = Timeouts::of_change(self.change_deadline);
        self.read_over(&self.connections, timeouts, query).await
    }

    /// Reads, and reads again over another connection if the first is broken, or leads to a server
    /// that is a replica by now. A read may be repeated. Idle connections often break together (a
    /// restart, an administrator, a firewall).
    pub(super) async fn read_over(
        &self,
        connections: &Connections,
        timeouts: Timeouts,
        query: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let began = Instant::now();
        let connected_by = began + timeouts.connection;
        let mut replied_by = None;
        let mut lost = 0;
        loop {
            let connection = connections.acquire_by(connected_by, timeouts.connection).await?;
            let may_be_elsewhere = connection.is_old() && lost < connections.most();
            let progress = Progress::default();
            progress.reading();
            let call = async {
                match self.fetch_in_a_life(connection, &progress, &query).await {
                    Err(error) if errors::ends_connection(&error) && lost < connections.most() => {
                        Ok(Err(errors::of_statement(error, &progress)))
                    }
                    Err(error) => Err(self.explain(error, &progress).await),
                    Ok(rows) if may_be_elsewhere && rows::is_in_recovery(&rows) => {
                        Ok(Err(errors::in_recovery()))
                    }
                    Ok(rows) => Ok(Ok(rows)),
                }
            };
            let by = *replied_by.get_or_insert_with(|| Instant::now() + timeouts.reply);
            let tried = timeout_at(by, call)
                .await
                .map_err(|_elapsed| errors::timed_out(&progress, by - began))?;
            match tried? {
                Ok(rows) => return Ok(rows),
                Err(broken) if Instant::now() >= connected_by => return Err(broken),
                Err(_broken) => lost += 1,
            }
        }
    }

    /// Begins this life of the database, if a read has not done so yet. Returns its id.
    pub(super) async fn begin_life(&self) -> Result<Uuid, StoreError> {
        let begin = || statement(&self.statements.begin_life);
        let begun = self.write_anyway(begin).await?;
        let row = begun.first().ok_or(sqlx::Error::RowNotFound);
        row.and_then(|row| row.try_get(0)).map_err(rows::unexpected)
    }

    /// Writes our own records for validations, even on a server that is read-only by default.
    pub(super) async fn write_anyway(
        &self,
        change: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let progress = Progress::default();
        let writing = async {
            let mut connection = self.acquire_for_change().await?;
            progress.reading();
            match self
                .send(&mut connection, Some(BEGIN_WRITING), STATEMENT_TRIES, &progress, change)
                .await
            {
                Ok(rows) => {
                    connection.release();
                    Ok(rows)
                }
                Err(error) => {
                    drop(connection);
                    Err(self.explain(error, &progress).await)
                }
            }
        };
        within(self.change_deadline, &progress, writing).await
    }

    /// Makes a change that is one statement. It is sent again only if Postgres has rolled it back,
    /// up to `tries` times over a connection. After a connection that an administrator closed it
    /// goes over another one, as often as the pool has connections. It also does if the server of
    /// an old connection takes no changes any more, because the address may lead to another one.
    /// The caller's deadline limits all of this.
    pub(super) async fn change(
        &self,
        progress: &Progress,
        tries: u32,
        change: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut lost = 0;
        loop {
            progress.connecting();
            let connection = self.acquire_for_change().await?;
            let may_be_elsewhere = connection.is_old();
            match self.begin() {
                Some(_) => progress.begun(),
                None => progress.changing(),
            }
            match self.fetch(connection, tries, progress, &change).await {
                Ok(rows) => {
                    self.lives.confirm_change(&rows).await?;
                    progress.reading();
                    return Ok(rows);
                }
                Err(error) if may_be_elsewhere && errors::is_read_only(&error) => {}
                Err(error)
                    if errors::is_closed_by_server(&error)
                        && tries > 1
                        && lost < self.connections.most() =>
                {
                    lost += 1;
                }
                Err(error) => return Err(self.explain(error, progress).await),
            }
        }
    }

    /// Acquires a connection for a change.
    pub(super) async fn acquire_for_change(&self) -> Result<Connection, StoreError> {
        let wait = Timeouts::of_change(self.change_deadline).connection;
        self.connections.acquire_for_change(self.change_deadline / 10, wait).await
    }

    /// Makes a change that is one statement, under its deadline.
    pub(super) async fn change_once(
        &self,
        change: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let progress = Progress::default();
        within(self.change_deadline, &progress, self.change(&progress, STATEMENT_TRIES, change))
            .await
    }

    /// Reads the whole reply, and releases the connection if it is still good. The reply to an
    /// autocommitted change ends after its commit.
    async fn fetch(
        &self,
        mut connection: Connection,
        tries: u32,
        progress: &Progress,
        query: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let fetched = self.send(&mut connection, self.begin(), tries, progress, query).await;
        self.release(connection, &fetched);
        fetched
    }

    /// Reads as [`fetch`](Self::fetch) does. The first read after a start of the server begins a
    /// life. It uses the connection that lacks one, because another may lead to another server.
    async fn fetch_in_a_life(
        &self,
        mut connection: Connection,
        progress: &Progress,
        query: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut fetched =
            self.send(&mut connection, self.begin(), STATEMENT_TRIES, progress, &query).await;
        if fetched.as_ref().is_ok_and(|rows| rows::lacks_a_life(rows)) {
            let begin = || statement(&self.statements.begin_life);
            fetched = self
                .send(&mut connection, Some(BEGIN_WRITING), STATEMENT_TRIES, progress, begin)
                .await;
            if fetched.is_ok() {
                fetched = self
                    .send(&mut connection, self.begin(), STATEMENT_TRIES, progress, &query)
                    .await;
            }
        }
        self.release(connection, &fetched);
        fetched
    }

    /// Returns the beginning of a statement's own transaction, which is needed behind a pooler.
    /// Without it, a prepared statement may run over another connection than the one it was
    /// prepared on. Its name would also remain there. The pooler's sessions may have another
    /// default isolation level.
    fn begin(&self) -> Option<&'static str> {
        self.pooled.then_some("BEGIN ISOLATION LEVEL READ COMMITTED")
    }

    /// Releases the connection if it is still good. An old connection may lead to a server that the
    /// address no longer names: one that was demoted, or that a cut-over left running. A new
    /// connection is kept, because the address names a server that is read-only.
    fn release(&self, connection: Connection, reply: &Result<Vec<PgRow>, sqlx::Error>) {
        match reply {
            Err(error) if errors::ends_connection(error) => drop(connection),
            Err(error) if errors::is_read_only(error) => {
                self.lives.suspect();
                if connection.is_new() {
                    connection.release_after_failure();
                }
            }
            Err(_) => connection.release_after_failure(),
            Ok(rows) if rows::is_in_recovery(rows) && !connection.is_new() => {
                self.lives.suspect();
                drop(connection);
            }
            Ok(rows) if self.lives.contradict(rows) => drop(connection),
            Ok(_) => connection.release(),
        }
    }

    /// Sends a statement, after `begin` in a transaction of its own if there is one. A statement
    /// that Postgres rolled back had no effect, and is sent again.
    async fn send(
        &self,
        connection: &mut Connection,
        begin: Option<&'static str>,
        tries: u32,
        progress: &Progress,
        query: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut tried = 1;
        loop {
            let statement = query().persistent(!self.pooled);
            let sent = match begin {
                Some(begin) => in_transaction(connection, begin, statement, progress).await,
                None => statement.fetch_all(&mut **connection).await,
            };
            match sent {
                Err(error) if tried < tries && errors::is_rolled_back(&error) => tried += 1,
                sent => return sent,
            }
        }
    }

    /// Returns the store error for a failed statement. With `row_security=off`, a read of hidden
    /// rows fails like a missing right (42501). A query tells the two apart.
    pub(super) async fn explain(&self, error: sqlx::Error, progress: &Progress) -> StoreError {
        if !errors::is_denied_right(&error) {
            return errors::of_statement(error, progress);
        }
        progress.reading();
        let schema = self.schema.as_str();
        match self.role_and_hidden_table().await {
            Some((role, Some(table))) => {
                rows::hidden(&role, schema, &table).with_source(errors::denied(error, None))
            }
            Some((role, None)) => errors::denied(error, Some((&role, schema))),
            None => errors::denied(error, None),
        }
    }

    /// Returns our present role, which may differ from the login role, and a table whose rows are
    /// hidden from it.
    async fn role_and_hidden_table(&self) -> Option<(String, Option<String>)> {
        let connection = self.connections.acquire().await.ok()?;
        let query = || statement(&self.statements.hidden);
        let found =
            self.fetch(connection, STATEMENT_TRIES, &Progress::default(), query).await.ok()?;
        let row = found.first()?;
        Some((row.try_get("role").ok()?, row.try_get("hidden").ok()?))
    }
}

async fn in_transaction(
    connection: &mut Connection,
    begin: &'static str,
    statement: Statement,
    progress: &Progress,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut transaction = connection.begin_with(begin).await?;
    let rows = statement.fetch_all(&mut *transaction).await?;
    progress.committing();
    transaction.commit().await?;
    Ok(rows)
}

/// Awaits `call`, with a timeout at the deadline.
pub(super) async fn within<T>(
    deadline: Duration,
    progress: &Progress,
    call: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    match timeout(deadline, call).await {
        Ok(reply) => reply,
        Err(_) => Err(errors::timed_out(progress, deadline)),
    }
}
