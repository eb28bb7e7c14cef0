//! The checker, checked.

mod files;
