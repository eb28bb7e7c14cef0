//! Why a fault could not be injected or healed.

use crate::backends::BackendError;

/// A fault could not be injected or healed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// The server is not ours, does not answer, or refused.
    #[error(transparent)]
    Backend(#[from] BackendError),

    /// Redis refused something.
    #[error("could not make or heal {fault}")]
    Redis {
        /// Which fault.
        fault: super::Fault,
        /// Why.
        #[source]
        source: redis::RedisError,
    },

    /// Postgres refused something.
    #[error("could not make or heal {fault}")]
    Postgres {
        /// Which fault.
        fault: super::Fault,
        /// Why.
        #[source]
        source: sqlx::Error,
    },

    /// The fault needs to know more about the target, or can't happen to it.
    #[error("{fault} is not possible: {why}")]
    Impossible {
        /// Which fault.
        fault: super::Fault,
        /// Why, and what to do.
        why: String,
    },

    /// What was to happen did not within 10 s.
    #[error("{fault} did not take effect")]
    NoEffect {
        /// Which fault.
        fault: super::Fault,
        /// What was waited for.
        #[source]
        source: crate::wait::WaitedInVain,
    },
}
