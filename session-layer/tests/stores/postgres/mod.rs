//! What is Postgres' own: triggers, rights, snapshots, lost connections.

mod support;

mod conformance {
    crate::conformance::checks!(crate::postgres::support::with_store);
}
