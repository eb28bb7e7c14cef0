//! The fragments of which the statements consist.

use super::schema::SchemaName;
use crate::model::session::{MAX_DATA_BYTES, MAX_LABEL_CHARS, MAX_USER_AGENT_CHARS};

/// Returns the columns of a [`Session`](crate::Session), from the row `s`.
fn columns() -> String {
    format!("{SUMMARY}, s.user_id, s.user_epoch, s.version, {DATA} AS data")
}

/// The data, or NULL if it is larger than a session may hold, because an operator may have written
/// 1 GB. The stored size is compared first, because it is known without reading the data.
const DATA: &str = "CASE WHEN pg_column_size(s.data) <= 65536 + 64 THEN \
     CASE WHEN octet_length(s.data::text) <= 65536 THEN s.data::text END END";
const _: () = assert!(MAX_DATA_BYTES == 65_536);

/// Returns the columns of a [`SessionSummary`](crate::SessionSummary), from the row `s`. An
/// operator may have written a label of any length. $5: whether to return text columns.
fn listed() -> String {
    format!(
        "{SUMMARY}, CASE WHEN $5 THEN left(s.label, {MAX_LABEL_CHARS}) END AS label, \
         host(s.ip) AS ip, \
         CASE WHEN $5 THEN left(s.user_agent, {MAX_USER_AGENT_CHARS}) END AS user_agent"
    )
}

const SUMMARY: &str = "s.id, s.idle_timeout_s, s.persistent, s.created_at, s.authenticated_at, \
     s.last_seen_at, s.expires_at";

/// The condition that a session has not expired by Postgres' clock. The interval is subtracted from
/// now, because it cannot be added to a date at the end of the calendar. Such a row would fail
/// every read that includes it.
pub(super) const IN_TIME: &str = "s.expires_at > now() AND (s.idle_timeout_s IS NULL \
     OR s.last_seen_at > now() - s.idle_timeout_s * interval '1 second')";

/// The condition that a cache may have an entry of the session. It ended at most the longest TTL (a
/// day) and an hour ago. A user's thousands of sessions of last year then need no UNLINK.
pub(super) const MAY_BE_CACHED: &str = "(s.expires_at > now() - interval '25 hours' \
     AND coalesce(s.revoked_at > now() - interval '25 hours', true))";

/// The fragments that contain the schema's name.
pub(super) struct Fragments {
    pub(super) sessions: String,
    pub(super) users: String,
    pub(super) nodes: String,
    /// The facts that decide whether a reply is authoritative, always as one row.
    pub(super) facts: String,
    /// The epoch of the user of the row `s`, or NULL.
    pub(super) epoch: String,
    /// The condition that the row `s` is an active session: not revoked, not expired, and not of an
    /// earlier epoch.
    pub(super) alive: String,
    /// The columns of a [`Session`](crate::Session), from the row `s`.
    pub(super) columns: String,
    /// The columns of a [`SessionSummary`](crate::SessionSummary), from the row `s`.
    pub(super) listed: String,
}

impl Fragments {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let quoted = schema.quoted();
        let sessions = format!("{quoted}.sessions");
        let users = format!("{quoted}.session_users");
        let journal = format!("{quoted}.session_journal");
        let nodes = format!("{quoted}.session_nodes");
        // As a subquery, unlike a join, it is always a look-up by primary key.
        let epoch = format!("(SELECT u.epoch FROM {users} u WHERE u.user_id = s.user_id)");
        Self {
            facts: format!(
                "(SELECT l.id AS life, l.journal_floor::text::bigint AS journal_floor, \
                 pg_is_in_recovery() AS in_recovery, \
                 row_security_active('{sessions}') AS sessions_hidden, \
                 row_security_active('{users}') AS users_hidden, \
                 row_security_active('{journal}') AS journal_hidden, \
                 current_user::text AS role, '{schema}' AS schema, now() AS now, \
                 pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin \
                 FROM {quoted}.this_life() l)"
            ),
            alive: format!(
                "(s.revoked_at IS NULL AND {IN_TIME} AND s.user_epoch >= coalesce({epoch}, 0))"
            ),
            columns: columns(),
            listed: listed(),
            sessions,
            users,
            nodes,
            epoch,
        }
    }
}
