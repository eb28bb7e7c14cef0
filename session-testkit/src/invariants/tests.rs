//! Tests of the checker.

mod files;
mod properties;
mod simulated;
