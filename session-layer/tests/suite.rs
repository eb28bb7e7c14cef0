//! The engine and the HTTP edge over ports in memory, which tests hold, slow down and break.
//! `verification/tests` has the tests on real servers, and session-testkit the probe for Tower's
//! rules.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure with its location")]

mod ports;

/// Validations and changes. Timing tests use virtual time.
mod engine {
    mod breaker;
    mod changes;
    mod deadlines;
    mod housekeeping;
    mod journal;
    #[cfg(feature = "metrics")]
    mod metrics;
    mod near_cache;
    mod own_changes;
    mod pause;
    mod reads;
    mod registry;
    mod revocation;
    mod settings;
    mod spans;
    mod touch;
}

/// The HTTP edge as clients see it.
mod edge {
    mod answers;
    mod auto_traits;
    mod bodies;
    #[cfg(feature = "axum")]
    mod extractors;
    mod flood;
    mod fuzz;
    mod health;
    mod options;
    mod rejections;
    mod requests;
    mod servers;
    mod stub;
}
