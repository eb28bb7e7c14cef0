//! Observations of a deployment beside its responses, which some promises require.
//!
//! | promise | entry | file |
//! |---|---|---|
//! | R8, no stale entry in Redis | [`Scan`](crate::history::Scan) | `copies.rs` |
//! | R10, reads within the bulkhead | [`InFlight`](crate::history::InFlight) | `nodes.rs` |
//! | R11, no leaked resources | [`Sample`](crate::history::Sample) | `resources.rs` |
//! | R12, no raw tokens | [`Search`](crate::history::Search) | `secrets.rs`, `dump.rs`, `logs.rs` |
//!
//! They bypass the proxies, read from the servers directly, and change nothing there.

mod copies;
mod dump;
pub(crate) mod keys;
mod logs;
mod nodes;
mod resources;
mod secrets;

pub use self::{
    copies::scan,
    logs::Logs,
    nodes::{HitCounts, Hits, watch_nodes},
    resources::sample,
    secrets::search,
};

/// The error of an observation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// A server is unreachable.
    #[error(transparent)]
    Backend(#[from] crate::backends::BackendError),
    /// Redis refused a command.
    #[error("could not read from Redis")]
    Redis(#[from] redis::RedisError),
    /// Postgres refused a query.
    #[error("could not read from Postgres")]
    Postgres(#[from] sqlx::Error),
    /// Redis sent no dump.
    #[error("could not read Redis' dump: {0}")]
    Dump(String),
    /// The tokens are too many for a search.
    #[error("could not search for tokens")]
    Search(#[source] aho_corasick::BuildError),
}
