//! What is Postgres' own: triggers, rights, snapshots, lost connections.

mod faults;
mod housekeeping;
mod migrations;
mod plain_sql;
mod proxy;
mod races;
mod rights;
mod support;
