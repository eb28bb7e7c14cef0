//! Tests of session-layer, its stores and the examples, on real Redis and Postgres. Each folder is
//! about one question.

/// What happens to a request?
mod request {
    mod bad_input;
    mod batched_look_ups;
    mod cookies;
    mod near_cache;
    mod validate;
}

/// What does a change do, and how long does a revoked session remain valid?
mod changes {
    mod adapter_mutants;
    mod bounds;
    mod broken_ports;
    mod journal;
    mod logins;
    mod lost_invalidations;
    mod model;
    mod round_trips;
    mod stale_fill;
    mod update_rotate_revoke;
}

/// What happens while Redis is down, slow, or has old data?
mod redis_down {
    mod breaker;
    mod cluster;
    mod connect_failures;
    mod old_data;
    mod outages;
    mod rejected_commands;
    mod sentinels;
}

/// What happens while Postgres is down, overloaded, or rejects statements?
mod postgres_down {
    mod crash;
    mod failover;
    mod outages;
    mod overload;
    mod rejected_statements;
    mod unreadable_rows;
}

/// What can an attacker do?
mod security {
    mod sealed;
    mod secrets;
}

/// Which deployments work?
mod deployment {
    mod backup;
    mod copied_database;
    mod expiring_certificates;
    mod expiring_credentials;
    mod idle_connections;
    mod pause;
    mod pgbouncer;
    mod postgres_tls;
    mod redis_credentials;
    mod redis_tls;
    mod rolling_change;
}

/// What does an operator see?
mod operation {
    mod alerts;
    mod degraded_links;
    mod log_events;
    mod metrics;
    mod traces;
}

/// Does each store keep its own promises? `session-testkit/tests/it/conformance.rs` has the
/// promises that stores share.
mod stores;

/// Do the examples work?
mod examples {
    pub(crate) mod http_client;
    mod hyper;
    pub(crate) mod quickstart;
}

/// Do the documents agree with the code?
mod docs;

use session_verification::{
    binaries, certificates, commands, harness, judged, mutants, pgbouncer, support,
};
