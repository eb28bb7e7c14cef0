//! Tests of `sessionctl` on real servers.

mod check;
mod command;
mod migrate;
#[cfg(feature = "report")]
mod report;
mod sessions;
mod watch;

use session_verification::{certificates, harness, pgbouncer, support};
