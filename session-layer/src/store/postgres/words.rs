//! What the statements are put together from.

use super::schema::SchemaName;

/// A moment as microseconds since 1970. `infinity`, which a person may have written, is cut to what
/// RFC 3339 can say: else one such row would fail every read it is part of. Not for NULL, which
/// `least` and `greatest` pass over.
pub(super) fn micros(moment: &str) -> String {
    format!(
        "(extract(epoch FROM least(greatest({moment}, timestamptz '0001-01-01Z'), \
         timestamptz '9999-12-31Z')) * 1000000)::bigint"
    )
}

/// What a [`Session`](crate::Session) is made of, from the row `s`.
fn columns() -> String {
    format!(
        "s.id, s.user_id, s.version, s.idle_timeout_s, s.persistent, s.data::text AS data, \
         {} AS created_at, {} AS authenticated_at, {} AS last_seen_at, {} AS expires_at",
        micros("s.created_at"),
        micros("s.authenticated_at"),
        micros("s.last_seen_at"),
        micros("s.expires_at"),
    )
}

/// Its time is not over, by Postgres' clock.
pub(super) const IN_TIME: &str = "s.expires_at > now() AND (s.idle_timeout_s IS NULL \
     OR s.last_seen_at + s.idle_timeout_s * interval '1 second' > now())";

/// There may be a copy of it in a cache: its end is not longer ago than the longest TTL (a day) and an
/// hour. Of one user's thousands of sessions of last year none has to be invalidated.
pub(super) const MAY_BE_CACHED: &str = "(s.expires_at > now() - interval '25 hours' \
     AND coalesce(s.revoked_at > now() - interval '25 hours', true))";

/// The parts, with our schema's name in them.
pub(super) struct Words {
    pub(super) sessions: String,
    pub(super) users: String,
    pub(super) journal: String,
    /// What decides whether an answer is the truth: one row, always.
    pub(super) facts: String,
    /// The epoch of the user of the row `s`, or NULL.
    pub(super) epoch: String,
    /// The row `s` is alive: not revoked, its time not over, and not of an earlier epoch.
    pub(super) alive: String,
    /// What a [`Session`](crate::Session) is made of, from the row `s`.
    pub(super) columns: String,
}

impl Words {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let quoted = schema.quoted();
        let sessions = format!("{quoted}.sessions");
        let users = format!("{quoted}.session_users");
        let journal = format!("{quoted}.session_journal");
        // A subquery rather than a join: it can only become a look-up in the primary key.
        let epoch = format!("(SELECT u.epoch FROM {users} u WHERE u.user_id = s.user_id)");
        Self {
            // LIMIT 1 says what the statistics do not (autovacuum never analyzes a table of one row):
            // without it the planner reckons with 1,540, and compiles a read of 64 digests for 0.3 s.
            facts: format!(
                "(SELECT st.id AS store_id, pg_is_in_recovery() AS in_recovery, \
                 row_security_active('{sessions}') AS sessions_hidden, \
                 row_security_active('{users}') AS users_hidden, \
                 row_security_active('{journal}') AS journal_hidden, \
                 current_user::text AS role, '{schema}' AS schema, {} AS now, \
                 pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin, \
                 st.journal_floor::text::bigint AS journal_floor, st.floor_system \
                 FROM {quoted}.session_store st LIMIT 1)",
                micros("now()")
            ),
            alive: format!(
                "(s.revoked_at IS NULL AND {IN_TIME} AND s.user_epoch >= coalesce({epoch}, 0))"
            ),
            columns: columns(),
            sessions,
            users,
            journal,
            epoch,
        }
    }
}
