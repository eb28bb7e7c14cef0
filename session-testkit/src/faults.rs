//! What can be done to servers, and to the lines that lead there, by name: killed, filled, locked,
//! demoted, cut off.
//!
//! A [`Fault`] is a name: it can be written on a command line and in a history. [`inject`] makes it
//! true on a [`Target`] and answers a [`FaultGuard`] that heals when it is dropped and says what was
//! touched. Of two at a time that change the same (two settings of memory, say), heal the later one
//! first: each puts back what it found.
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
//! // … the service goes on without filling its cache …
//! let report = full.heal().await?;
//! assert!(report.touched_something(), "nobody used the Redis meanwhile: {report}");
//! # Ok(())
//! # }
//! ```
//!
//! Servers that were not started by us are left alone ([`BackendError::NotAllowed`],
//! [`BackendError::NotOurs`]) unless
//! [`allow_destructive`](crate::backends::BackendsBuilder::allow_destructive) was said.
//!
//! [`BackendError::NotAllowed`]: crate::backends::BackendError::NotAllowed
//! [`BackendError::NotOurs`]: crate::backends::BackendError::NotOurs

mod error;
mod failover;
mod fault;
mod felt;
mod guard;
mod link;
mod postgres;
mod redis;
mod target;

pub use self::{
    error::FaultError,
    fault::{Command, Fault, UnknownFault},
    guard::{FaultGuard, Report},
    link::Link,
    target::Target,
};

/// Makes a fault true until the guard heals it.
///
/// # Errors
///
/// [`FaultError`], and then nothing was changed, or it was healed.
pub async fn inject(fault: &Fault, target: &Target) -> Result<FaultGuard, FaultError> {
    let guard = FaultGuard::new(*fault, target);
    if let Some(link) = fault.link() {
        link::inject(*fault, link, target, guard)
    } else if fault.is_redis() {
        redis::inject(*fault, target, guard).await
    } else {
        postgres::inject(*fault, target, guard).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schedule runs in a task of its own.
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
