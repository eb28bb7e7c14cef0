//! Contract checks for implementations of [`SessionCache`](session_layer::cache::SessionCache) and
//! [`SessionStore`](session_layer::store::SessionStore).
//!
//! [`run`] runs checks, each on a port that `fresh` opens:
//!
//! ```
//! use session_layer::cache::MemoryCache;
//! use session_layer::store::SqliteStore;
//! use session_testkit::conformance::{self, Nodes};
//!
//! #[tokio::main] // several threads, because some checks of a cache run operations concurrently
//! async fn main() -> Result<(), conformance::NotConforming> {
//!     let fresh = || SqliteStore::open(":memory:");
//!     println!("{}", conformance::run(conformance::store_checks(), fresh).await?);
//!
//!     let fresh = async || Ok::<_, std::io::Error>(Nodes::one(MemoryCache::new(10_000)));
//!     let cache = conformance::run(conformance::cache_checks(), fresh);
//! #   drop(cache);
//!     Ok(())
//! }
//! ```
//!
//! The error states, for each failed check, what the port did. A port that panics fails the check
//! in which it panicked. The same holds for an operation without a reply after [`PATIENCE`].
//!
//! | port | checks |
//! |---|---|
//! | a cache in one process's memory | [`cache_checks`], on [`Nodes::one`] |
//! | a cache that nodes share | [`cache_checks`], on [`Nodes::two`] |
//! | a store | [`store_checks`] |
//! | a cache whose server is down or hangs | [`cache_outage_checks`] |
//! | a store whose server is down or hangs | [`store_outage_checks`] |
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
//! A store that [is exclusive](session_layer::store::SessionStore::is_exclusive) has a journal
//! without readers, and may omit the group `journal`:
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

pub use self::cache::{Nodes, cache_checks};
pub use self::check::{Check, Failure, PATIENCE};
pub use self::outage::{cache_outage_checks, store_outage_checks};
pub use self::report::{Checked, NotConforming, Report, run};
pub use self::store::store_checks;
