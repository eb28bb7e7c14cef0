//! Named faults in a schedule.

use std::time::Duration;

use super::{Break, Failure, Scheduled};
use crate::{
    faults::{self, Fault, FaultGuard, Target},
    history::Touched,
};

impl Scheduled {
    /// Creates a named fault. `at` counts from the beginning of the load.
    ///
    /// A fault of Redis counts as [`no_redis`](Self::no_redis). For a fault of Postgres, the caller
    /// declares the effect with [`no_postgres`](Self::no_postgres). After `postgres-kill` no
    /// request gets a reply. After `postgres-terminate` the next connection does.
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
        if fault.is_redis() { scheduled.no_redis() } else { scheduled }
    }
}

pub(crate) struct Injected {
    fault: Fault,
    target: Target,
    guard: Option<FaultGuard>,
}

impl Injected {
    pub(crate) fn new(fault: Fault, target: Target) -> Self {
        Self { fault, target, guard: None }
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
        // If the server counts effects, only they prove that the fault had one.
        let touched = report.effects.unwrap_or(report.connections);
        Ok(Some(Touched { connections: touched, bytes: 0 }))
    }
}
