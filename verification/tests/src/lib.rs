//! The code that the tests on real servers share. The tests are in the folders beside `src`, one
//! per question.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "only the tests of this workspace use it"
)]

pub mod binaries;
pub mod certificates;
pub mod commands;
pub mod harness;
pub mod judged;
pub mod mutants;
pub mod pgbouncer;
pub mod support;
