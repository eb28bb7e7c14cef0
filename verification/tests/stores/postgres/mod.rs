//! What is Postgres' own: triggers, rights, snapshots, lost connections.

mod faults;
mod housekeeping;
mod isolation;
mod list;
mod lives;
mod migrations;
mod odd_rows;
mod plain_sql;
mod proxy;
mod races;
mod rights;
mod support;
