//! What is each store's own.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that cannot go on fails; nothing here is for others"
)]

mod postgres;
mod sqlite;
mod support;
