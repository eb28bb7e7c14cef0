//! Named faults of servers and of the connections to them.
//!
//! A [`Fault`] is a name that a command line and a history can contain. [`inject`] causes it on a
//! [`Target`] and returns a [`FaultGuard`], which heals the fault when it is dropped and reports
//! its effects. Two simultaneous faults may change the same setting, such as a memory limit. Heal
//! the later one first, because each restores the value that it found.
//!
//! ```no_run
//! use session_testkit::{backends::Backends, faults::{self, Fault, Target}};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = Backends::start_own().await?;
//! let target = Target::new(&servers);
//! let fault: Fault = "redis-oom".parse()?;
//! let full = faults::inject(&fault, &target).await?;
//! // … the service continues without filling its cache …
//! let report = full.heal().await?;
//! assert!(report.touched_something(), "no client used Redis meanwhile: {report}");
//! # Ok(())
//! # }
//! ```
//!
//! A fault does not touch servers that the testkit did not start ([`BackendError::NotAllowed`],
//! [`BackendError::NotOurs`]), unless
//! [`allow_destructive`](crate::backends::BackendsBuilder::allow_destructive) was called.
//!
//! [`BackendError::NotAllowed`]: crate::backends::BackendError::NotAllowed
//! [`BackendError::NotOurs`]: crate::backends::BackendError::NotOurs

mod cluster;
mod error;
mod error_counts;
mod failover;
mod fault;
mod guard;
mod link;
mod postgres;
mod promotion;
mod redis;
mod sentinels;
mod target;

pub(crate) use self::fault::named;
use self::guard::Undo;
pub use self::{
    error::FaultError,
    fault::{Command, Fault, UnknownFault},
    guard::{FaultGuard, Report},
    link::Link,
    target::Target,
};

/// Injects a fault, which lasts until the guard heals it.
///
/// # Errors
/// [`FaultError`]. In that case nothing was changed, or the fault was healed.
pub async fn inject(fault: &Fault, target: &Target) -> Result<FaultGuard, FaultError> {
    let mut guard = FaultGuard::new(*fault, target);
    if let Some((peer, link)) = fault.link() {
        guard.undo = Undo::Toxics(link.inject(peer, target)?);
    } else if *fault == Fault::PostgresIdleDrop {
        guard.undo = Undo::Toxics(link::drop_idle(target)?);
    } else if fault.is_redis() {
        redis::inject(*fault, target, &mut guard).await?;
    } else {
        postgres::inject(*fault, target, &mut guard).await?;
    }
    Ok(guard)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that a schedule can run in a task of its own.
    #[test]
    fn futures_can_be_spawned() {
        fn spawnable<T: Send + 'static>(_: impl Future<Output = T> + Send + 'static) {}
        let _compiles = |fault: Fault, target: Target| {
            spawnable(async move {
                let mut guard = inject(&fault, &target).await?;
                let _report = guard.report().await;
                guard.heal().await
            });
        };
    }
}
