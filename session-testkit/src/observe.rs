//! What is seen of a deployment beside its answers: the entries of a history that some promises are about.
//!
//! | promise | entry | file |
//! |---|---|---|
//! | R8, no stale copy stays in Redis | [`Scan`](crate::history::Scan) | `copies.rs` |
//! | R10, reads stay within the bulkhead | [`InFlight`](crate::history::InFlight) | `reads.rs` |
//! | R11, nothing is held on to | [`Sample`](crate::history::Sample) | `resources.rs` |
//! | R12, raw tokens are nowhere | [`Search`](crate::history::Search) | `secrets.rs`, `dump.rs`, `logs.rs` |
//!
//! All of it goes past the proxies, straight to the servers, and changes nothing there.

mod copies;
mod dump;
mod hits;
pub(crate) mod keys;
mod logs;
mod reads;
mod resources;
mod secrets;

pub use self::{
    copies::scan,
    hits::{HitCounts, Hits, watch_hits},
    logs::Logs,
    reads::{watch_bulkheads, watch_reads},
    resources::sample,
    secrets::{Needles, search},
};

/// What could not be observed, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// A server could not be reached.
    #[error(transparent)]
    Backend(#[from] crate::backends::BackendError),
    /// Redis refused something.
    #[error("could not look into Redis")]
    Redis(#[from] redis::RedisError),
    /// Postgres refused something.
    #[error("could not look into Postgres")]
    Postgres(#[from] sqlx::Error),
    /// Redis' dump could not be had.
    #[error("could not read Redis' dump: {0}")]
    Dump(String),
    /// There are more tokens than can be searched for.
    #[error("could not search for tokens")]
    Search(#[source] aho_corasick::BuildError),
}
