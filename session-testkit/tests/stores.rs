//! What is each store's own. What they have in common is in `it/conformance.rs`.
//!
//! Those of Postgres need a server: `SESSION_TESTKIT_DATABASE_URL` names it, and `make test` (or
//! `session-testkit run -- cargo nextest run`) starts one and sets it.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on fails; nothing here is for others"
)]

#[path = "stores/postgres/mod.rs"]
mod postgres;
#[path = "stores/sqlite.rs"]
mod sqlite;
#[path = "stores/support.rs"]
mod support;
