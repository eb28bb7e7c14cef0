//! One statement, from a connection to its rows, under a deadline.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Connection as _, Row as _, SqlStr};
use tokio::time::{Instant, timeout, timeout_at};

use super::PostgresStore;
use super::connection::{Connection, Connections};
use super::errors::{self, Progress};
use super::rows;
use crate::error::StoreError;

/// A statement with its parameters.
pub(super) type Statement = Query<'static, Postgres, PgArguments>;

pub(super) fn statement(sql: &SqlStr) -> Statement {
    sqlx::query(sql.clone())
}

/// No span of time here means more: in microseconds, it can be added to any date of ours.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// A span as the statements take it.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.min(LONGEST).as_micros()).unwrap_or(i64::MAX)
}

/// How long a call waits, over all its tries.
///
/// What is sent late and given up soon after goes on at Postgres, beside all that its connection's successor is sent
/// then: while somebody holds a lock on our tables, that was hundreds of statements. So what is sent is waited for
/// until Postgres itself has given it up (`statement_timeout` and `lock_timeout`, see `builder.rs`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// For a connection and the answer together.
    InAll(Duration),
    /// For a connection, and from when it is first sent for the answer.
    ForEach {
        connection: Duration,
        answer: Duration,
    },
}

impl Patience {
    /// A change's, and of what begins one: what is sent has more time than a lock is waited for.
    fn of_change(deadline: Duration) -> Self {
        let connection = deadline * 9 / 20;
        Self::ForEach {
            connection,
            answer: deadline - connection,
        }
    }

    pub(super) fn connection(self) -> Duration {
        match self {
            Self::InAll(connection) | Self::ForEach { connection, .. } => connection,
        }
    }

    /// How long the answer to what was `sent` so long after the call may take.
    fn answer(self, sent: Duration) -> Duration {
        match self {
            Self::InAll(in_all) => in_all.saturating_sub(sent),
            Self::ForEach { answer, .. } => answer,
        }
    }
}

impl PostgresStore {
    /// Asks, and asks again over another connection where the first turns out to be dead: idle
    /// connections die together (a restart, an administrator, a firewall), and a read may be repeated.
    pub(super) async fn read(
        &self,
        ask: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let patience = Patience::InAll(self.read_deadline);
        self.read_over(&self.connections, patience, ask).await
    }

    /// [`read`](Self::read), with a change's patience: of what begins one, and of a user's list.
    pub(super) async fn read_for_change(
        &self,
        ask: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let patience = Patience::of_change(self.change_deadline);
        self.read_over(&self.connections, patience, ask).await
    }

    /// [`read`](Self::read), over these connections and with this patience.
    pub(super) async fn read_over(
        &self,
        connections: &Connections,
        patience: Patience,
        ask: impl Fn() -> Statement + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        let began = Instant::now();
        let connected_by = began + patience.connection();
        let mut answered_by = None;
        let mut dead = 0;
        loop {
            let connection = connections
                .get_by(connected_by, patience.connection())
                .await?;
            let progress = Progress::default();
            progress.asking();
            let asking = async {
                match self.fetch(connection, ask()).await {
                    Err(error) if errors::ends_connection(&error) && dead < connections.most() => {
                        Ok(Err(error))
                    }
                    Err(error) => Err(self.explain(error, &progress).await),
                    Ok(rows) => Ok(Ok(rows)),
                }
            };
            let now = Instant::now();
            let by = *answered_by.get_or_insert_with(|| now + patience.answer(now - began));
            let tried = timeout_at(by, asking)
                .await
                .map_err(|_elapsed| errors::timed_out(&progress, by - began))?;
            match tried? {
                Ok(rows) => return Ok(rows),
                Err(died) if Instant::now() >= connected_by => {
                    return Err(errors::of_statement(died, &progress));
                }
                Err(_died) => dead += 1,
            }
        }
    }

    /// Makes a change that is one statement. It is sent once.
    pub(super) async fn change(
        &self,
        progress: &Progress,
        change: Statement,
    ) -> Result<Vec<PgRow>, StoreError> {
        progress.connecting();
        let connection = self.answering().await?;
        progress.changing();
        match self.fetch(connection, change).await {
            Ok(rows) => {
                progress.asking();
                Ok(rows)
            }
            Err(error) => Err(self.explain(error, progress).await),
        }
    }

    /// A connection for a change. Four that hang are passed over.
    pub(super) async fn answering(&self) -> Result<Connection, StoreError> {
        let wait = Patience::of_change(self.change_deadline).connection();
        self.connections
            .get_answering(self.change_deadline / 10, wait)
            .await
    }

    /// A change that is one statement, under its deadline.
    pub(super) async fn change_once(&self, change: Statement) -> Result<Vec<PgRow>, StoreError> {
        let progress = Progress::default();
        within(
            self.change_deadline,
            &progress,
            self.change(&progress, change),
        )
        .await
    }

    /// The answer to its end (with an autocommitted change, that is after its commit), and the
    /// connection back to the pool where it is still good.
    async fn fetch(
        &self,
        mut connection: Connection,
        statement: Statement,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let fetched = if self.pooled {
            pinned(&mut connection, statement).await
        } else {
            statement.fetch_all(&mut *connection).await
        };
        match &fetched {
            Err(error) if errors::ends_connection(error) => drop(connection),
            _ => connection.give_back(),
        }
        fetched
    }

    /// With `row_security=off`, rows that would be hidden are a denied right (42501). Which of the
    /// two it is, Postgres tells when asked: it is not said by text.
    pub(super) async fn explain(&self, error: sqlx::Error, progress: &Progress) -> StoreError {
        if !errors::is_denied_right(&error) {
            return errors::of_statement(error, progress);
        }
        progress.asking();
        let schema = self.schema.as_str();
        match self.role_and_hidden_table().await {
            Some((role, Some(table))) => {
                rows::hidden(&role, schema, &table).with_source(errors::denied(error, None))
            }
            Some((role, None)) => errors::denied(error, Some((&role, schema))),
            None => errors::denied(error, None),
        }
    }

    /// The role we act as (not always the one that logged in), and a table of ours whose rows it may not see.
    async fn role_and_hidden_table(&self) -> Option<(String, Option<String>)> {
        let connection = self.connections.get().await.ok()?;
        let asking = statement(&self.statements.hidden);
        let found = self.fetch(connection, asking).await.ok()?;
        let row = found.first()?;
        Some((row.try_get("role").ok()?, row.try_get("hidden").ok()?))
    }
}

/// The statement in a transaction of its own. Behind a pooler, what is prepared may else run into
/// another server's connection than the one it was prepared on; and a name given to it there would stay.
async fn pinned(
    connection: &mut Connection,
    statement: Statement,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let rows = statement
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(rows)
}

/// `asking`, given up at the deadline.
pub(super) async fn within<T>(
    deadline: Duration,
    progress: &Progress,
    asking: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    match timeout(deadline, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(errors::timed_out(progress, deadline)),
    }
}
