//! The HTTP edge as clients see it, over stubs of cache and store.
//!
//! `stub` is a configurable cache and store that counts its queries. session-testkit has the tests
//! on real servers and the probe for Tower's rules.

#![allow(unreachable_pub, reason = "one binary: `pub` means shared between its modules")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure with its location")]

mod stub;

mod answers;
mod auto_traits;
mod bodies;
#[cfg(feature = "axum")]
mod extractors;
mod flood;
mod fuzz;
mod health;
mod options;
mod rejections;
mod requests;
mod servers;
