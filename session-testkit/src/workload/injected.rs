//! A named fault as part of a schedule.

use std::time::Duration;

use super::{Break, Failure, Scheduled};
use crate::{
    faults::{self, Fault, FaultGuard, Target},
    history::Touched,
};

impl Scheduled {
    /// A fault by its name. `at` counts from the beginning of the load.
    ///
    /// One of Redis counts as [`no_redis`](Self::no_redis). What one of Postgres means for its nodes is to be said with
    /// [`no_postgres`](Self::no_postgres): after `postgres-kill` nobody answers, after `postgres-terminate` the next
    /// connection does.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use session_testkit::{backends::Backends, faults::Target, workload::Scheduled};
    ///
    /// let servers = Backends::start_own().await?;
    /// let (at, lasts) = (Duration::from_secs(1), Duration::from_secs(2));
    /// let killed = Scheduled::fault("redis-kill".parse()?, &Target::new(&servers), at, lasts);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn fault(fault: Fault, target: &Target, at: Duration, lasts: Duration) -> Self {
        let injected = Injected::new(fault, target.clone());
        let scheduled = Self::new(fault.name(), at, lasts, injected);
        if fault.is_redis() {
            scheduled.no_redis()
        } else {
            scheduled
        }
    }
}

/// A fault by its name.
pub(crate) struct Injected {
    fault: Fault,
    target: Target,
    guard: Option<FaultGuard>,
}

impl Injected {
    pub(crate) fn new(fault: Fault, target: Target) -> Self {
        Self {
            fault,
            target,
            guard: None,
        }
    }
}

impl Break for Injected {
    async fn cause(&mut self) -> Result<(), Failure> {
        self.guard = Some(faults::inject(&self.fault, &self.target).await?);
        Ok(())
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        let Some(guard) = self.guard.take() else {
            return Ok(None);
        };
        let report = guard.heal().await?;
        // Where the server counts effects, they alone say whether something was touched.
        let touched = report.effects.unwrap_or(report.connections);
        Ok(Some(Touched {
            connections: touched,
            bytes: 0,
        }))
    }
}
