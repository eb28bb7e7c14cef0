//! The promises that a store does not share with others.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "in a test, a panic is a failure with its location"
)]

mod postgres;
mod sqlite;
mod support;
