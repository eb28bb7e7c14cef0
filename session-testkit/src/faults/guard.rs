//! A fault until it heals: how to undo it, and what it touched.

use std::{fmt, mem};

use sqlx::{Connection as _, PgConnection};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Fault, FaultError, Target, failover, postgres, redis};
use crate::{
    backends::{PauseGuard, chain},
    proxy::ToxicGuard,
    wait,
};

/// What a fault has touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Connections of clients that were there when it began, or are there now if those are more; of
    /// a line's, those that were held, delayed or ended.
    pub connections: u64,
    /// What was counted: commands refused, entries evicted or flushed, connections refused or closed,
    /// changes lost, rows locked; of Postgres' errors, those that the nodes of the target's
    /// [`network`](super::Target::network) were answered. `None` where nobody counts it.
    pub effects: Option<u64>,
}

impl Report {
    /// Whether it touched anything: if not, a test that passed under it has shown nothing.
    #[must_use]
    pub fn touched_something(self) -> bool {
        self.effects.unwrap_or(self.connections) > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections", self.connections)?;
        match self.effects {
            Some(effects) => write!(f, ", {effects} effects"),
            None => Ok(()),
        }
    }
}

/// How to undo a fault.
#[derive(Default)]
pub(super) enum Undo {
    /// It is over, or was once for all.
    #[default]
    Nothing,
    /// Start the server again.
    Restart,
    Resume(PauseGuard),
    /// Commands for the Redis.
    Redis(Vec<Vec<String>>),
    /// The same, on a connection that was there before, because it takes no other.
    RedisOn(Box<::redis::Connection>, Vec<Vec<String>>),
    /// It ends by itself.
    Wait(Instant),
    Failback,
    /// Statements for the Postgres; each its own transaction.
    Postgres(Vec<String>),
    /// End an open transaction.
    Rollback(Box<PgConnection>),
    /// End what is done again and again.
    Stop(JoinSet<()>),
    Toxics(Vec<ToxicGuard>),
    /// Join these networks again.
    Reconnect(Vec<String>),
}

/// A fault, until it is dropped.
///
/// A drop blocks until it has healed (a restart takes a second); [`heal`](Self::heal) awaits that, and
/// tells what went wrong.
#[must_use = "the fault heals as soon as the guard is dropped"]
pub struct FaultGuard {
    fault: Fault,
    target: Target,
    pub(super) undo: Undo,
    /// Connections when it began.
    pub(super) connections: u64,
    /// What it did when it was injected.
    pub(super) effects: Option<u64>,
    /// The server's counter of its effects when it began.
    pub(super) counter: Option<u64>,
    /// On the lines to the nodes: they count the errors by which it is felt.
    pub(super) counting: Vec<ToxicGuard>,
}

impl FaultGuard {
    pub(super) fn new(fault: Fault, target: &Target) -> Self {
        Self {
            fault,
            target: target.clone(),
            undo: Undo::Nothing,
            connections: 0,
            effects: None,
            counter: None,
            counting: Vec::new(),
        }
    }

    /// Which fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// What it has touched so far. A server that does not answer is not asked for more than was known
    /// when the fault began.
    pub async fn report(&mut self) -> Report {
        let mut report = Report {
            connections: self.connections,
            effects: self.effects,
        };
        if !self.counting.is_empty() {
            let times = self.counting.iter().map(|it| it.report().occurrences);
            report.effects = Some(times.sum());
        }
        if let Undo::Toxics(toxics) = &self.undo {
            report.connections = toxics.iter().map(|it| it.report().connections).sum();
            return report;
        }
        if matches!(self.undo, Undo::Restart | Undo::Resume(_) | Undo::Wait(_)) {
            return report;
        }
        if self.fault.is_redis() {
            let held = match &mut self.undo {
                Undo::RedisOn(connection, _) => Some(connection.as_mut()),
                _ => None,
            };
            let Some(now) = redis::look(self.fault, &self.target, held).await else {
                return report;
            };
            report.connections = report.connections.max(now.connections);
            if let (Some(before), Some(counter)) = (self.counter, now.counter) {
                report.effects = Some(counter.saturating_sub(before));
            }
        } else if let Ok(mut admin) = postgres::connect(self.fault, &self.target).await
            && let Ok(now) = postgres::clients(&mut admin).await
        {
            report.connections = report.connections.max(now);
            if let Some(before) = self.counter
                && let Ok(now) = postgres::next_id(&mut admin).await
            {
                report.effects = Some(now.saturating_sub(before));
            }
        }
        report
    }

    /// Heals, and says what was touched before.
    ///
    /// # Errors
    ///
    /// [`FaultError`] if the server could not be brought back to what it was.
    pub async fn heal(mut self) -> Result<Report, FaultError> {
        let report = self.report().await;
        let undo = mem::take(&mut self.undo);
        run(undo, self.fault, &self.target).await?;
        Ok(report)
    }
}

impl fmt::Debug for FaultGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultGuard")
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        match mem::take(&mut self.undo) {
            Undo::Nothing => {}
            // Its socket belongs to the runtime around us; closing it is enough.
            Undo::Rollback(connection) => drop(connection),
            Undo::Stop(tasks) => drop(tasks),
            undo => {
                if let Some(Err(error)) = wait::blocking(run(undo, self.fault, &self.target)) {
                    tracing::warn!(error = chain(&error), fault = %self.fault, "did not heal");
                }
            }
        }
    }
}

async fn run(undo: Undo, fault: Fault, target: &Target) -> Result<(), FaultError> {
    match undo {
        Undo::Nothing => {}
        Undo::Toxics(toxics) => drop(toxics),
        Undo::Stop(tasks) => drop(tasks),
        Undo::Restart if fault.is_redis() => target.redis.restart().await?,
        Undo::Restart => target.postgres.restart().await?,
        Undo::Resume(paused) => {
            paused.resume().await?;
            // As after a restart: it is back when it answers. It has to come to what gathered at its door.
            if fault.is_redis() {
                target.redis.ready().await?;
            } else {
                target.postgres.ready().await?;
            }
        }
        Undo::Redis(commands) => redis::undo(fault, target, &commands).await?,
        Undo::RedisOn(mut connection, commands) => {
            for words in commands {
                redis::command(&words)
                    .exec(&mut *connection)
                    .map_err(redis::refused(fault))?;
            }
        }
        Undo::Wait(until) => sleep_until(until).await,
        Undo::Failback => failover::fail_back(fault, target).await?,
        Undo::Postgres(statements) => postgres::undo(fault, target, &statements).await?,
        Undo::Rollback(mut connection) => {
            // Of a connection that is closed the locks may be held for a moment still.
            let rollback = sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await;
            rollback.map_err(postgres::refused(fault))?;
            connection.close().await.map_err(postgres::refused(fault))?;
        }
        Undo::Reconnect(networks) if fault.is_redis() => {
            target.redis.reconnect(&networks).await?;
        }
        Undo::Reconnect(networks) => target.postgres.reconnect(&networks).await?,
    }
    Ok(())
}
