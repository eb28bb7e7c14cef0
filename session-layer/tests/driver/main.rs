//! The driver over ports in memory, which tests hold and break. Timing tests use virtual time.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure with its location")]

mod breaker;
mod changes;
mod deadlines;
mod housekeeping;
mod journal;
mod own_changes;
mod ports;
mod reads;
mod registry;
mod revocation;
mod settings;
mod spans;
mod touch;
