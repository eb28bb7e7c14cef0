//! The checker, checked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod files;
mod properties;
mod simulated;
