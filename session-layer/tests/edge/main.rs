//! The edge, seen from outside: what a request gets, over stubs of cache and store.
//!
//! `stub` is a cache and a store that say about a token what a test wants, and count how often they are
//! asked. Tests on real servers, and the probe for Tower's rules, are in
//! session-testkit.

#![allow(
    unreachable_pub,
    reason = "one binary: `pub` means shared between its modules"
)]
#![allow(
    clippy::unwrap_used,
    reason = "in a test, a panic is a failure that says where"
)]

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
