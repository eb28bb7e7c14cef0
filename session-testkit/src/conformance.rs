//! Does a port keep its contract? For whoever writes a [`SessionCache`] or a [`SessionStore`] of their own.
//!
//! One call makes every check, each on a port that `fresh` opens:
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
//! The error says of each check that failed what the port did, in a sentence. A port that panics, or an
//! operation that has no answer after [`PATIENCE`], fails the check in which that happened.
//!
//! | the port | call | checks |
//! |---|---|---|
//! | a cache in one process's memory | [`cache`] | [`cache_checks`], on one handle |
//! | a cache that nodes share | [`shared_cache`] | the same, on the handles of two nodes |
//! | a store | [`store`] | [`store_checks`] |
//! | one of them whose server is down, or hangs | [`cache_in_outage`], [`store_in_outage`] | [`cache_outage_checks`], [`store_outage_checks`] |
//!
//! # What a port must be given
//!
//! - It need not be empty, nor one that nobody else uses: every check has tokens and users of its own. So
//!   `fresh` may open a port each time, or return a clone.
//! - A cache needs room for 1,000 sessions, and deadlines that fit the machine: a cache that gives up
//!   after 50 ms fails on a busy one.
//! - Nothing is closed. A port that is dropped must let go of what it opened.
//! - A runtime of several threads, for a cache.
//!
//! The cache's checks wait for leases and fences to lapse, 20 s in all.
//!
//! # Some of the checks, or one test for each
//!
//! [`run`] makes those that it is given. A store whose journal nobody reads, since it
//! [is exclusive](SessionStore::is_exclusive), leaves that group out:
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
//! A [`Check`] runs by itself too, so a test harness can list each as a test, here that of `libtest-mimic`:
//!
//! ```
//! use libtest_mimic::{Arguments, Trial};
//! use session_layer::store::SqliteStore;
//! use session_testkit::conformance;
//!
//! let tests = conformance::store_checks().into_iter().map(|check| {
//!     Trial::test(check.name(), move || {
//!         let runtime = tokio::runtime::Runtime::new()?;
//!         runtime.block_on(async {
//!             let store = SqliteStore::open(":memory:").await?;
//!             Ok(check.run(&store).await?)
//!         })
//!     })
//! });
//! libtest_mimic::run(&Arguments::default(), tests.collect()).exit();
//! ```

mod cache;
mod check;
mod outage;
mod report;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;

use std::{error::Error, future::Future};

use session_layer::{cache::SessionCache, store::SessionStore};

pub use self::cache::{Nodes, cache_checks};
pub use self::check::{Check, Failure, PATIENCE};
pub use self::outage::{cache_outage_checks, store_outage_checks};
pub use self::report::{Checked, NotConforming, Report, run};
pub use self::store::store_checks;

/// Makes all [`cache_checks`] on a cache of which there is one handle, such as one in the process's
/// memory.
///
/// ```no_run
/// use session_layer::cache::MemoryCache;
/// use session_testkit::conformance;
///
/// #[tokio::main] // several threads: "at once" is meant
/// async fn main() -> Result<(), conformance::NotConforming> {
///     let fresh = || async { Ok::<_, std::io::Error>(MemoryCache::new(10_000)) };
///     println!("{}", conformance::cache(fresh).await?);
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// [`NotConforming`] if any check failed; a `fresh` that fails, fails its check.
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

/// Makes all [`cache_checks`] on a cache that nodes share. `fresh` opens the handles of two nodes on one
/// and the same cache: what one does, the other must see.
///
/// # Errors
///
/// [`NotConforming`] if any check failed; a `fresh` that fails, fails its check.
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

/// Makes all [`store_checks`].
///
/// # Errors
///
/// [`NotConforming`] if any check failed; a `fresh` that fails, fails its check.
pub async fn store<S, E, T>(fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    S: SessionStore,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<S, E>>,
{
    run(store_checks(), fresh).await
}

/// Makes all [`cache_outage_checks`] on caches whose server cannot be reached, or never answers.
///
/// # Errors
///
/// [`NotConforming`] if any check failed; a `fresh` that fails, fails its check.
pub async fn cache_in_outage<C, E, T>(fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    C: SessionCache,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<C, E>>,
{
    run(cache_outage_checks(), fresh).await
}

/// Makes all [`store_outage_checks`] on stores whose server cannot be reached, or never answers.
///
/// # Errors
///
/// [`NotConforming`] if any check failed; a `fresh` that fails, fails its check.
pub async fn store_in_outage<S, E, T>(fresh: impl FnMut() -> T) -> Result<Report, NotConforming>
where
    S: SessionStore,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<S, E>>,
{
    run(store_outage_checks(), fresh).await
}
