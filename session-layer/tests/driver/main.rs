//! The driver over ports in memory that a test holds up, breaks, and watches. Time is virtual where a
//! test is about time.

#![allow(
    clippy::unwrap_used,
    reason = "in a test, a panic is a failure that says where"
)]

mod breaker;
mod deadlines;
mod housekeeping;
mod journal;
mod own_changes;
mod ports;
mod reads;
mod spans;
mod touch;
