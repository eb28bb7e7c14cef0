//! Every statement, built once per store: the schema's (checked) name is the only part that varies.
//!
//! Each returns, beside what was asked, the *facts* that decide whether the answer is the truth.
//! They come first and do not depend on any row, so that there is always a row to read them from.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::schema::SchemaName;
use super::words::{IN_TIME, MAY_BE_CACHED, Words, micros};

/// The statements of one store. `SqlStr` is shared: cloning one copies nothing.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) load: SqlStr,
    pub(super) list: SqlStr,
    pub(super) probe: SqlStr,
    pub(super) journal: SqlStr,
    pub(super) journal_of_connection: SqlStr,
    pub(super) digests: PerTarget,
    pub(super) digests_of_user: SqlStr,
    pub(super) revoke: PerTarget,
    pub(super) add_user: SqlStr,
    pub(super) moment: SqlStr,
    pub(super) create: SqlStr,
    pub(super) foreign_raise: SqlStr,
    pub(super) forget_raise: SqlStr,
    pub(super) raise_epoch: SqlStr,
    pub(super) revoke_user: SqlStr,
    pub(super) update: SqlStr,
    pub(super) rotate: SqlStr,
    pub(super) touch: SqlStr,
    pub(super) purge_journal: SqlStr,
    pub(super) sweep: SqlStr,
    pub(super) hidden: SqlStr,
}

/// The same statement for both ways to name one session: $1 is the digest or the id, $2 whose it
/// must be (or NULL).
#[derive(Debug)]
pub(super) struct PerTarget {
    pub(super) token: SqlStr,
    pub(super) id: SqlStr,
}

impl PerTarget {
    fn new(statement: impl Fn(&str) -> String) -> Self {
        Self {
            token: sql(statement(
                "(s.token_digest = $1 OR (s.previous_digest = $1 AND s.previous_until > now())) \
                 AND ($2::text IS NULL OR s.user_id = $2)",
            )),
            id: sql(statement(
                "s.id = $1 AND ($2::text IS NULL OR s.user_id = $2)",
            )),
        }
    }
}

/// Nothing but [`SchemaName`] was put into these strings.
fn sql(statement: String) -> SqlStr {
    AssertSqlSafe(std::sync::Arc::<str>::from(statement)).into_sql_str()
}

impl Statements {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let Words {
            sessions,
            users,
            journal,
            facts,
            epoch,
            alive,
            columns,
        } = &Words::new(schema);
        let quoted = schema.quoted();
        Self {
            // $1 digests
            load: sql(format!(
                "SELECT f.*, d.n, {columns}, {epoch} AS epoch, \
                 s.revoked_at IS NOT NULL OR s.user_epoch < coalesce({epoch}, 0) AS revoked, \
                 {IN_TIME} AS in_time, \
                 CASE WHEN s.counts_until IS NOT NULL THEN {} END AS counts_until \
                 FROM {facts} f \
                 LEFT JOIN unnest($1::bytea[]) WITH ORDINALITY AS d(digest, n) ON true \
                 LEFT JOIN LATERAL ( \
                   SELECT c.*, NULL::timestamptz AS counts_until \
                   FROM {sessions} c WHERE c.token_digest = d.digest \
                   UNION ALL \
                   SELECT c.*, c.previous_until FROM {sessions} c \
                   WHERE c.previous_digest = d.digest AND c.previous_until > now() \
                 ) s ON true \
                 ORDER BY d.n, s.counts_until NULLS FIRST",
                micros("s.counts_until")
            )),
            // $1 user
            list: sql(format!(
                "SELECT f.*, {columns}, s.label, host(s.ip) AS ip, s.user_agent \
                 FROM {facts} f LEFT JOIN {sessions} s ON s.user_id = $1 AND {alive} \
                 ORDER BY s.created_at DESC, s.id"
            )),
            probe: sql(format!(
                "SELECT f.*, s.id FROM {facts} f \
                 LEFT JOIN LATERAL (SELECT id FROM {sessions} LIMIT 1) s ON true"
            )),
            journal: sql(read_journal(facts, journal, LIFE)),
            journal_of_connection: sql(read_journal(facts, journal, CONNECTION)),
            // $1 and $2 the target
            digests: PerTarget::new(|matches| {
                format!(
                    "SELECT f.*, s.id, s.token_digest, s.previous_digest, s.former_digests \
                     FROM {facts} f LEFT JOIN {sessions} s ON {matches}"
                )
            }),
            // $1 user
            digests_of_user: sql(format!(
                "SELECT f.*, s.id, s.token_digest, s.previous_digest, s.former_digests \
                 FROM {facts} f LEFT JOIN {sessions} s ON s.user_id = $1 AND {MAY_BE_CACHED}"
            )),
            // $1 and $2 the target, $3 reason. The row is shown as it was when the statement began,
            // and again as it was when it ended, if that is our doing: a rotation may lie between.
            revoke: PerTarget::new(|matches| {
                format!(
                    "WITH ended AS ( \
                       UPDATE {sessions} s SET revoked_at = now(), ended_reason = $3 \
                       WHERE {matches} AND {alive} \
                       RETURNING s.id, s.token_digest, s.previous_digest, s.former_digests) \
                     SELECT f.*, s.id, s.token_digest, s.previous_digest, s.former_digests, {epoch} AS epoch, \
                       {alive} AS alive, e.id AS ended, \
                       e.token_digest AS ended_token, e.previous_digest AS ended_previous, \
                       e.former_digests AS ended_former_digests \
                     FROM {facts} f LEFT JOIN {sessions} s ON {matches} \
                     LEFT JOIN ended e ON e.id = s.id"
                )
            }),
            // $1 user
            add_user: sql(format!(
                "INSERT INTO {users} (user_id) VALUES ($1) ON CONFLICT DO NOTHING"
            )),
            moment: sql(format!("SELECT f.*, {MOMENT} AS moment FROM {facts} f")),
            create: sql(create(users, sessions, facts, columns)),
            // $1 user. See `create.rs`.
            foreign_raise: sql(format!(
                "SELECT u.raised_by::text FROM {users} u WHERE u.user_id = $1 \
                 AND u.raised_by >= pg_snapshot_xmax(pg_current_snapshot())"
            )),
            // $1 user, $2 the transaction
            forget_raise: sql(format!(
                "UPDATE {users} SET raised_by = NULL \
                 WHERE user_id = $1 AND raised_by = $2::text::xid8"
            )),
            // $1 user. The trigger notes the transaction.
            raise_epoch: sql(format!(
                "INSERT INTO {users} AS u (user_id, epoch) VALUES ($1, 1) \
                 ON CONFLICT (user_id) DO UPDATE SET epoch = u.epoch + 1 RETURNING u.epoch"
            )),
            // $1 user, $2 the epoch now, $3 the one that is spared, $4 reason
            revoke_user: sql(format!(
                "WITH ended AS ( \
                   UPDATE {sessions} s SET \
                     revoked_at = CASE WHEN s.id = $3 THEN NULL ELSE now() END, \
                     ended_reason = CASE WHEN s.id = $3 THEN s.ended_reason ELSE $4 END, \
                     user_epoch = CASE WHEN s.id = $3 THEN $2 ELSE s.user_epoch END \
                   WHERE s.user_id = $1 AND s.revoked_at IS NULL AND s.user_epoch >= $2 - 1 \
                     AND {IN_TIME} \
                   RETURNING s.id, s.token_digest, s.previous_digest, s.former_digests) \
                 SELECT f.*, s.id, s.token_digest, s.previous_digest, s.former_digests, e.id AS ended, \
                   e.token_digest AS ended_token, e.previous_digest AS ended_previous, \
                       e.former_digests AS ended_former_digests \
                 FROM {facts} f LEFT JOIN {sessions} s ON s.user_id = $1 AND {MAY_BE_CACHED} \
                 LEFT JOIN ended e ON e.id = s.id"
            )),
            // $1 id, $2 version, $3 data. Naming the version makes it a change also where the data
            // is the same: what the caller read is out of date either way.
            update: sql(format!(
                "WITH made AS ( \
                   UPDATE {sessions} s SET data = $3::text::jsonb, version = s.version + 1 \
                   WHERE s.id = $1 AND s.version = $2 AND {alive} RETURNING s.*) \
                 SELECT f.*, {columns}, s.id AS made, w.id AS was, w.version = $2 AS expected, \
                   w.alive, w.epoch, s.token_digest, s.previous_digest, s.former_digests \
                 FROM {facts} f \
                 LEFT JOIN (SELECT s.id, s.version, {alive} AS alive, {epoch} AS epoch \
                   FROM {sessions} s WHERE s.id = $1) w ON true \
                 LEFT JOIN made s ON true"
            )),
            // $1 old, $2 new, $3 grace in microseconds. Also with no grace the old digest stays
            // in its column: a second rotation of it is told that it came second.
            rotate: sql(format!(
                "WITH made AS ( \
                   UPDATE {sessions} s SET token_digest = $2, previous_digest = s.token_digest, \
                     former_digests = CASE WHEN s.previous_digest IS NULL THEN s.former_digests \
                       ELSE (array_prepend(s.previous_digest, s.former_digests))[1:16] END, \
                     previous_until = now() + $3 * interval '1 microsecond' \
                   WHERE s.token_digest = $1 AND {alive} RETURNING s.*) \
                 SELECT f.*, {columns}, s.id AS made, w.id AS was, w.token_digest = $1 AS expected, \
                   w.alive, w.epoch, s.token_digest, s.previous_digest, s.former_digests \
                 FROM {facts} f \
                 LEFT JOIN (SELECT s.id, s.token_digest, s.previous_digest, s.former_digests, {alive} AS alive, \
                     {epoch} AS epoch \
                   FROM (SELECT * FROM {sessions} WHERE token_digest = $1 \
                     UNION ALL SELECT * FROM {sessions} WHERE previous_digest = $1) s \
                   ORDER BY s.token_digest = $1 DESC LIMIT 1) w ON true \
                 LEFT JOIN made s ON true"
            )),
            // $1 id, $2 granularity in microseconds. It waits for nobody's lock, and its commit for no disk and
            // no standby: a request would wait with it. What a crash takes back costs a session a part of its
            // idle time. (Set here, not with the connection: neither a pool of the application's nor a pooler
            // would know.)
            touch: sql(format!(
                "WITH was AS MATERIALIZED ( \
                   SELECT s.id, {alive} AS alive, {epoch} AS epoch, \
                     s.last_seen_at <= now() - $2 * interval '1 microsecond' AS expected, \
                     set_config('synchronous_commit', 'off', true) AS commit \
                   FROM {sessions} s WHERE s.id = $1), \
                 made AS ( \
                   UPDATE {sessions} s SET last_seen_at = now() \
                   WHERE s.id = (SELECT l.id FROM {sessions} l WHERE l.id = $1 \
                       FOR NO KEY UPDATE SKIP LOCKED) AND {alive} \
                     AND s.last_seen_at <= now() - $2 * interval '1 microsecond' RETURNING s.*) \
                 SELECT f.*, {columns}, m.id AS made, w.id AS was, w.expected, w.alive, w.epoch, \
                   s.token_digest, s.previous_digest, s.former_digests \
                 FROM {facts} f \
                 LEFT JOIN was w ON true LEFT JOIN made m ON true \
                 LEFT JOIN ( \
                   SELECT * FROM made \
                   UNION ALL \
                   SELECT o.* FROM {sessions} o \
                   WHERE o.id = $1 AND NOT EXISTS (SELECT FROM made) \
                 ) s ON true"
            )),
            // $1 how long rows are kept, in microseconds
            purge_journal: sql(format!(
                "SELECT f.*, {quoted}.purge_journal($1 * interval '1 microsecond') AS removed \
                 FROM {facts} f"
            )),
            // $1 how long the ended are kept, in microseconds, $2 how many at most
            sweep: sql(format!(
                "SELECT f.*, {quoted}.sweep_sessions($1 * interval '1 microsecond', $2) AS removed \
                 FROM {facts} f"
            )),
            // Which of our tables shows our role only some of its rows?
            hidden: sql(format!(
                "SELECT current_user::text AS role, (SELECT c.relname::text \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = '{schema}' AND row_security_active(c.oid) AND c.relname IN \
                   ('sessions', 'session_users', 'session_journal', 'session_store') LIMIT 1) AS hidden"
            )),
        }
    }
}

/// What changes whenever transaction ids may be used again. A standby that is promoted begins a new timeline, which
/// the names of its log files tell. The recovery from a crash goes on with the same, and hands out the ids again whose
/// log had not reached the disk (commits that did not wait for it, as those of touches, and whatever was rolled back);
/// it ends with a checkpoint before anybody is let in. That there are others costs a read of the whole journal each.
const LIFE: &str = "CASE WHEN NOT f.in_recovery THEN hashtextextended(concat_ws(' ', \
       left(pg_walfile_name(pg_current_wal_lsn()), 8), (SELECT checkpoint_lsn FROM pg_control_checkpoint())), 0) END";

/// In its place, where Postgres does not tell these: a number of this connection, which ends with the server's life.
const CONNECTION: &str = "(SELECT hashtextextended(concat_ws(' ', a.pid, \
       extract(epoch FROM a.backend_start), extract(epoch FROM pg_postmaster_start_time())), 0) \
     FROM pg_stat_get_activity(pg_backend_pid()) a)";

/// $1 the first transaction wanted. Rows and snapshot must come from one statement.
fn read_journal(facts: &str, journal: &str, life: &str) -> String {
    let at = micros("j.at");
    format!(
        "SELECT f.*, (SELECT system_identifier FROM pg_control_system()) AS system, \
         {life} AS life, j.id AS entry, j.xid::text::bigint AS xid, {at} AS at, j.session_id, j.digest, \
         j.previous_digest, j.kind, j.version \
         FROM {facts} f LEFT JOIN {journal} j ON j.xid >= $1::text::xid8 \
         ORDER BY j.id"
    )
}

/// When a login begins: the time in microseconds, and what is committed by then. The time is taken after the snapshot,
/// so that whoever is visible in that began before. (A snapshot alone would do, if Postgres never used a transaction's
/// id again: after a crash the raise of an epoch may have one that is visible in a snapshot from before. A raise in
/// the future is one from before the clock was set back: of it the snapshot alone tells, or nobody could log in.)
const MOMENT: &str = "concat_ws(':', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, \
     pg_current_snapshot())";

/// $1 id, $2 user, $3 digest, $4 data, $5 label, $6 ip, $7 user agent, $8 idle timeout in seconds,
/// $9 lifetime in microseconds, $10 where Postgres stood when the login began (NULL: now), $11 persistent.
///
/// The user's row is locked first. Waiting for a revoke-all that holds it ends with the row as that
/// left it, and with the snapshot of before, in which that transaction was still running.
fn create(users: &str, sessions: &str, facts: &str, columns: &str) -> String {
    format!(
        "WITH who AS MATERIALIZED ( \
           SELECT u.epoch, u.raised_by, u.raised_at FROM {users} u WHERE u.user_id = $2 FOR SHARE), \
         begun AS MATERIALIZED ( \
           SELECT moment, substring(moment FROM '^[0-9]+')::bigint AS at, \
             substring(moment FROM ':(.*)$')::pg_snapshot AS snapshot \
           FROM (SELECT coalesce($10, {MOMENT}) AS moment) m), \
         since AS MATERIALIZED ( \
           SELECT NOT pg_visible_in_snapshot(who.raised_by, begun.snapshot) \
             OR who.raised_at BETWEEN to_timestamp(0) + begun.at * interval '1 microsecond' \
               AND clock_timestamp() AS raised \
           FROM who, begun WHERE who.raised_by IS NOT NULL), \
         made AS ( \
           INSERT INTO {sessions} AS s (id, token_digest, user_id, user_epoch, data, label, ip, \
             user_agent, idle_timeout_s, expires_at, persistent) \
           SELECT $1, $3, $2, who.epoch, $4::text::jsonb, $5, $6::text::inet, $7, $8, \
             now() + $9 * interval '1 microsecond', $11 \
           FROM who \
           WHERE NOT EXISTS (SELECT FROM since WHERE since.raised) \
             AND NOT EXISTS (SELECT FROM {sessions} p WHERE p.previous_digest = $3) \
           ON CONFLICT DO NOTHING RETURNING s.*) \
         SELECT f.*, {columns}, begun.moment, who.epoch IS NOT NULL AS user_known, \
           EXISTS (SELECT FROM since WHERE since.raised) AS superseded \
         FROM {facts} f CROSS JOIN begun LEFT JOIN who ON true LEFT JOIN made s ON true"
    )
}
