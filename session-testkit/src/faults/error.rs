//! Errors of injecting and healing faults.

use crate::backends::BackendError;

/// The error of injecting or healing a fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// The server is not ours, does not respond, or rejected a command.
    #[error(transparent)]
    Backend(#[from] BackendError),

    /// Redis rejected a command.
    #[error("could not inject or heal {fault}")]
    Redis {
        /// The fault.
        fault: super::Fault,
        /// The reason.
        #[source]
        source: redis::RedisError,
    },

    /// Postgres rejected a statement.
    #[error("could not inject or heal {fault}")]
    Postgres {
        /// The fault.
        fault: super::Fault,
        /// The reason.
        #[source]
        source: sqlx::Error,
    },

    /// The target lacks something that the fault needs.
    #[error("{fault} is not possible: {why}")]
    Impossible {
        /// The fault.
        fault: super::Fault,
        /// The reason, and what to do.
        why: String,
    },

    /// The expected effect did not occur within 10 s.
    #[error("{fault} did not take effect")]
    NoEffect {
        /// The fault.
        fault: super::Fault,
        /// The missing effect.
        #[source]
        source: crate::wait::WaitTimeoutError,
    },
}
