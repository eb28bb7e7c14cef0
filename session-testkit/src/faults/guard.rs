//! A guard that heals a fault and reports its effects.

use std::{fmt, mem};

use sqlx::{Connection as _, PgConnection};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Fault, FaultError, Target, cluster, failover, postgres, promotion, redis};
use crate::{
    backends::{BackendError, PauseGuard, RedisServer, chain},
    proxy::ToxicGuard,
    wait,
};

/// The effects of a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The number of client connections when the fault began, or now if there are more. For a fault
    /// of connections, the number of connections that were held, delayed or ended.
    pub connections: u64,
    /// The counted effects: rejected commands, evicted or flushed entries, rejected or closed
    /// connections, lost changes, locked rows. Postgres' errors count if the nodes of the target's
    /// [`network`](super::Target::network) received them. `None` if the effects are not counted.
    pub effects: Option<u64>,
}

impl Report {
    /// Returns whether the fault affected anything. If not, a passed test proves nothing.
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

/// The way to undo a fault.
#[derive(Default)]
pub(super) enum Undo {
    /// The fault has ended.
    #[default]
    Nothing,
    /// Starts the server again.
    Restart,
    Resume(PauseGuard),
    /// Commands for Redis.
    Redis(Vec<Vec<String>>),
    /// A command on an existing connection, because Redis accepts no new one.
    RedisOn(Box<::redis::Connection>, Vec<String>),
    /// The time when the fault ends by itself.
    Wait(Instant),
    Failback,
    /// Starts a killed master again, which the sentinels have replaced.
    Return(RedisServer),
    /// Promotes the former primary again.
    Demote,
    /// Moves the slots of a cluster back.
    MoveBack(Vec<u16>),
    /// Statements for Postgres, each in its own transaction.
    Postgres(Vec<String>),
    /// Ends an open transaction.
    Rollback(Box<PgConnection>),
    /// Ends a repeated action.
    Stop(JoinSet<()>),
    Toxics(Vec<ToxicGuard>),
    /// Joins these networks again.
    Reconnect(Vec<String>),
}

/// A fault, active until the guard is dropped.
///
/// Dropping the guard blocks until the fault has healed. A restart takes a second.
/// [`heal`](Self::heal) awaits the healing and returns its error.
#[must_use = "the fault heals as soon as the guard is dropped"]
pub struct FaultGuard {
    fault: Fault,
    target: Target,
    pub(super) undo: Undo,
    /// The number of connections at the injection.
    pub(super) connections: u64,
    /// The effects of the injection.
    pub(super) effects: Option<u64>,
    /// The server's counter of effects at the injection.
    pub(super) counter: Option<u64>,
    /// Counters of errors on the connections to the nodes.
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

    /// Stops the server. If it is not ours, it continues, and nothing has to be undone.
    pub(super) async fn stop(
        &mut self,
        stopping: impl Future<Output = Result<(), BackendError>> + Send,
    ) -> Result<(), FaultError> {
        self.undo = Undo::Restart;
        let stopped = stopping.await;
        if matches!(stopped, Err(BackendError::NotOurs { .. })) {
            self.undo = Undo::Nothing;
        }
        Ok(stopped?)
    }

    /// Reports the effects until now, or those of the injection if the server does not respond.
    pub async fn report(&mut self) -> Report {
        let mut report = Report { connections: self.connections, effects: self.effects };
        if !self.counting.is_empty() {
            let times = self.counting.iter().map(|it| it.report().occurrences);
            report.effects = Some(times.sum());
        }
        if let Undo::Toxics(toxics) = &self.undo {
            report.connections = toxics.iter().map(|it| it.report().connections).sum();
            return report;
        }
        if matches!(
            self.undo,
            Undo::Restart | Undo::Resume(_) | Undo::Wait(_) | Undo::Return(_) | Undo::Demote
        ) {
            return report;
        }
        if self.fault.is_redis() {
            let held = match &mut self.undo {
                Undo::RedisOn(connection, _) => Some(connection.as_mut()),
                _ => None,
            };
            let Some(now) = redis::counts(self.fault, &self.target, held).await else {
                return report;
            };
            report.connections = report.connections.max(now.connections);
            if let (Some(before), Some(counter)) = (self.counter, now.counter) {
                report.effects = Some(counter.saturating_sub(before));
            }
        } else if let Ok(mut admin) = postgres::connect(&self.target).await
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

    /// Heals the fault and returns the effects before healing.
    ///
    /// # Errors
    /// [`FaultError`] if the server could not be restored.
    pub async fn heal(mut self) -> Result<Report, FaultError> {
        let report = self.report().await;
        let undo = mem::take(&mut self.undo);
        run(undo, self.fault, &self.target).await?;
        Ok(report)
    }
}

impl fmt::Debug for FaultGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultGuard").field("fault", &self.fault).finish_non_exhaustive()
    }
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        match mem::take(&mut self.undo) {
            Undo::Nothing => {}
            // The socket belongs to the current runtime. Closing it is enough.
            Undo::Rollback(connection) => drop(connection),
            Undo::Stop(tasks) => drop(tasks),
            undo => {
                if let Some(Err(error)) = wait::blocking(run(undo, self.fault, &self.target)) {
                    let error = chain(&error);
                    tracing::warn!(error, fault = %self.fault, "a fault could not be healed");
                }
            }
        }
    }
}

async fn run(undo: Undo, fault: Fault, target: &Target) -> Result<(), FaultError> {
    let (redis, postgres) = (target.redis_of(fault), &target.postgres);
    match undo {
        Undo::Nothing => {}
        Undo::Toxics(toxics) => drop(toxics),
        Undo::Stop(tasks) => drop(tasks),
        Undo::Restart if fault.is_redis() => redis.restart().await?,
        Undo::Restart => postgres.restart().await?,
        Undo::Resume(paused) => {
            paused.resume().await?;
            // As after a restart, the server first has to work through the waiting commands.
            if fault.is_redis() { redis.ready().await? } else { postgres.ready().await? }
        }
        Undo::Redis(commands) => redis::undo(redis, &commands).await?,
        Undo::RedisOn(mut connection, words) => redis::command(&words).exec(&mut *connection)?,
        Undo::Wait(until) => sleep_until(until).await,
        Undo::Return(server) => server.restart().await?,
        Undo::Demote => promotion::fail_back(target).await?,
        Undo::Failback => failover::fail_back(target).await?,
        Undo::MoveBack(slots) => cluster::move_back(target, slots).await?,
        Undo::Postgres(statements) => postgres::undo(target, &statements).await?,
        Undo::Rollback(mut connection) => {
            // The server may hold the locks of a closed connection for a moment.
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
            connection.close().await?;
        }
        Undo::Reconnect(networks) if fault.is_redis() => redis.reconnect(&networks).await?,
        Undo::Reconnect(networks) => postgres.reconnect(&networks).await?,
    }
    Ok(())
}
