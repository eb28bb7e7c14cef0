//! Every store under the same checks, and each under those of its own.
//!
//! Those of Postgres need a server: `SESSION_TESTKIT_DATABASE_URL` names it, and `make test` (or
//! `session-testkit run -- cargo nextest run`) starts one and sets it.

mod conformance;
#[cfg(feature = "postgres")]
#[path = "stores/postgres/mod.rs"]
mod postgres;
