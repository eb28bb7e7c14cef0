//! Contract checks for implementations of [`SessionCache`] and [`SessionStore`].
//!
//! One call runs every check, each on a port that `fresh` opens:
//!
//! ```
//! use session_layer::store::SqliteStore;
//! use session_testkit::conformance;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), conformance::NotConforming> {
//! let report = conformance::store(|| SqliteStore::open(":memory:")).await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! The error states, for each failed check, what the port did. A port that panics fails the check
//! in which it panicked. The same holds for an operation without a reply after [`PATIENCE`].
//!
//! | port | call | checks |
//! |---|---|---|
//! | a cache in one process's memory | [`cache`] | [`cache_checks`], on one handle |
//! | a cache that nodes share | [`shared_cache`] | the same, on the handles of two nodes |
//! | a store | [`store`] | [`store_checks`] |
//! | a cache whose server is down or hangs | [`cache_in_outage`] | [`cache_outage_checks`] |
//! | a store whose server is down or hangs | [`store_in_outage`] | [`store_outage_checks`] |
//!
//! # Requirements
//!
//! - The port may contain data and have other users, because every check uses its own tokens and
//!   users. `fresh` may therefore open a port each time, or return a clone.
//! - A cache needs room for 1,000 sessions. Its deadlines must fit the machine: a deadline of 50 ms
//!   is too short on a busy one.
//! - The checks do not call `close`. A dropped port must release what it opened.
//! - The checks of a cache need a runtime with several threads.
//!
//! The cache checks wait about 20 s in total for leases and fences to lapse.
//!
//! # Selected checks, or each alone
//!
//! [`run`] runs the checks that it is given. A store that [is
//! exclusive](SessionStore::is_exclusive) has a journal without readers, and may omit that group:
//!
//! ```
//! # use session_layer::store::SqliteStore;
//! # use session_testkit::conformance;
//! # #[tokio::main]
//! # async fn main() -> Result<(), conformance::NotConforming> {
//! let checks = conformance::store_checks().into_iter().filter(|check| check.group() != "journal");
//! conformance::run(checks, || SqliteStore::open(":memory:")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Check`] also runs alone:
//!
//! ```
//! # use session_layer::store::SqliteStore;
//! # use session_testkit::conformance;
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! for check in conformance::store_checks() {
//!     check.run(&SqliteStore::open(":memory:").await?).await?;
//! }
//! # Ok(())
//! # }
//! ```

mod cache;
mod check;
mod outage;
mod report;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests;

use std::{error::Error, future::Future};

use session_layer::cache::SessionCache;
use session_layer::store::SessionStore;

pub use self::cache::{Nodes, cache_checks};
pub use self::check::{Check, Failure, PATIENCE};
pub use self::outage::{cache_outage_checks, store_outage_checks};
pub use self::report::{Checked, NotConforming, Report, run};
pub use self::store::store_checks;

/// Runs all [`cache_checks`] on a cache with one handle, such as one in the process's memory.
///
/// ```no_run
/// use session_layer::cache::MemoryCache;
/// use session_testkit::conformance;
///
/// #[tokio::main] // several threads, because some checks run operations concurrently
/// async fn main() -> Result<(), conformance::NotConforming> {
///     let fresh = || async { Ok::<_, std::io::Error>(MemoryCache::new(10_000)) };
///     println!("{}", conformance::cache(fresh).await?);
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// [`NotConforming`] if any check failed, or if `fresh` failed for it.
pub async fn cache<C, E, T>(mut fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    C: SessionCache,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<C, E>>,
{
    let fresh = move || {
        let opening = fresh();
        async { opening.await.map(Nodes::one) }
    };
    run(cache_checks(), fresh).await
}

/// Runs all [`cache_checks`] on a cache that nodes share. `fresh` opens the handles of two nodes on
/// the same cache. Each handle must see what the other does.
///
/// # Errors
///
/// [`NotConforming`] if any check failed, or if `fresh` failed for it.
pub async fn shared_cache<C, E, T>(mut fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    C: SessionCache,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<(C, C), E>>,
{
    let fresh = move || {
        let opening = fresh();
        async { opening.await.map(|(here, there)| Nodes::two(here, there)) }
    };
    run(cache_checks(), fresh).await
}

/// Runs all [`store_checks`].
///
/// # Errors
///
/// [`NotConforming`] if any check failed, or if `fresh` failed for it.
pub async fn store<S, E, T>(fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    S: SessionStore,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<S, E>>,
{
    run(store_checks(), fresh).await
}

/// Runs all [`cache_outage_checks`] on caches whose server is unreachable or never replies.
///
/// # Errors
///
/// [`NotConforming`] if any check failed, or if `fresh` failed for it.
pub async fn cache_in_outage<C, E, T>(fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    C: SessionCache,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<C, E>>,
{
    run(cache_outage_checks(), fresh).await
}

/// Runs all [`store_outage_checks`] on stores whose server is unreachable or never replies.
///
/// # Errors
///
/// [`NotConforming`] if any check failed, or if `fresh` failed for it.
pub async fn store_in_outage<S, E, T>(fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    S: SessionStore,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<S, E>>,
{
    run(store_outage_checks(), fresh).await
}
