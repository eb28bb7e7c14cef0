//! Errors of injecting and healing faults.

use crate::{backends::BackendError, wait::WaitTimeoutError};

/// The error of injecting or healing a fault. It does not name the fault, which the caller knows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// The server is not ours, does not respond, or rejected a command.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Redis rejected a command.
    #[error("Redis rejected a command")]
    Redis(#[from] redis::RedisError),
    /// Postgres rejected a statement.
    #[error("Postgres rejected a statement")]
    Postgres(#[from] sqlx::Error),
    /// The target lacks something that the fault needs. The text has the reason and what to do.
    #[error("not possible: {0}")]
    Impossible(String),
    /// The expected effect did not occur within 10 s.
    #[error("the fault did not take effect")]
    NoEffect(#[from] WaitTimeoutError),
}
