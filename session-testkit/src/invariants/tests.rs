//! The checker, checked.

mod files;
mod properties;
mod simulated;
