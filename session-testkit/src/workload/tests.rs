//! The workload on subjects in memory, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod loads;
mod memory;
mod plans;
