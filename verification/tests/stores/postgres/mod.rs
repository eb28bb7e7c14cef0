//! The store of Postgres: triggers, rights, snapshots, lost connections.

mod credentials;
mod faults;
mod housekeeping;
mod isolation;
mod list;
mod lives;
mod migrations;
mod odd_rows;
mod plain_sql;
mod races;
mod rights;
mod support;
