//! All statements, built once per store. Only the checked name of the schema varies.
//!
//! Each returns, beside its result, the *facts* that decide whether the reply is authoritative.
//! They come first and depend on no row, so that there is always a row with them.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::fragments::{Fragments, IN_TIME, MAY_BE_CACHED};
use super::schema::SchemaName;
use crate::model::session::{MAX_LABEL_CHARS, MAX_REASON_CHARS, MAX_USER_AGENT_CHARS};

/// The statements of one store. `SqlStr` is shared, so cloning one copies nothing.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) load: SqlStr,
    pub(super) list: SqlStr,
    pub(super) search: Pages,
    pub(super) estimated_rows: SqlStr,
    pub(super) probe: SqlStr,
    pub(super) journal: SqlStr,
    pub(super) begin_life: SqlStr,
    pub(super) digests: PerTarget,
    pub(super) digests_of_user: SqlStr,
    pub(super) revoke: PerTarget,
    pub(super) add_user: SqlStr,
    pub(super) login_snapshot: SqlStr,
    pub(super) create: SqlStr,
    pub(super) raise_epoch: SqlStr,
    pub(super) count_ended: SqlStr,
    pub(super) end_rows: SqlStr,
    pub(super) update: SqlStr,
    pub(super) rotate: SqlStr,
    pub(super) touch: SqlStr,
    pub(super) purge_journal: SqlStr,
    pub(super) sweep: SqlStr,
    pub(super) erase_sessions: SqlStr,
    pub(super) sweep_users: SqlStr,
    pub(super) register_node: SqlStr,
    pub(super) forget_node: SqlStr,
    pub(super) one_cache: SqlStr,
    pub(super) hidden: SqlStr,
}

/// One statement for each way to name sessions. $1 is the digest, the id or the ids. $2 is the user
/// to whom they must belong (or NULL).
#[derive(Debug)]
pub(super) struct PerTarget {
    pub(super) token: SqlStr,
    pub(super) id: SqlStr,
    pub(super) ids: SqlStr,
}

impl PerTarget {
    fn new(statement: impl Fn(&str) -> String) -> Self {
        Self {
            token: sql(statement(
                "(s.token_digest = $1 OR (s.previous_digest = $1 AND s.previous_until > now())) \
                 AND ($2::text IS NULL OR s.user_id = $2)",
            )),
            id: sql(statement("s.id = $1 AND ($2::text IS NULL OR s.user_id = $2)")),
            ids: sql(statement("s.id = ANY ($1) AND ($2::text IS NULL OR s.user_id = $2)")),
        }
    }
}

/// A search in the rows of one session, of one user, or of all.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) of_id: SqlStr,
    pub(super) of_user: SqlStr,
    pub(super) of_all: SqlStr,
}

impl Pages {
    /// $1 user, $2 id, $3 and $4 the place after which the page begins, $5 the limit of rows that
    /// are examined, $6 to $11 the filter, $12 whether to return ended sessions, $13 whether to
    /// return texts.
    fn new(Fragments { facts, sessions, alive, .. }: &Fragments) -> Self {
        let search = |matches: &str, order: &str| {
            sql(format!(
                "WITH page AS MATERIALIZED ( \
                   SELECT s.id, s.user_id, s.user_epoch, s.created_at, s.authenticated_at, \
                     s.last_seen_at, s.expires_at, s.idle_timeout_s, s.persistent, s.label, s.ip, \
                     s.user_agent, s.revoked_at, s.ended_by, s.ended_reason, {alive} AS alive, \
                     row_number() OVER (ORDER BY {order}) AS n \
                   FROM {sessions} s WHERE {matches} ORDER BY {order} LIMIT $5), \
                 last AS (SELECT p.id, p.created_at FROM page p ORDER BY p.n DESC LIMIT 1) \
                 SELECT f.*, (SELECT count(*) FROM page) AS examined, \
                   (SELECT l.id FROM last l) AS last_id, \
                   (SELECT l.created_at FROM last l) AS last_created_at, \
                   s.id, s.user_id, s.created_at, s.authenticated_at, s.last_seen_at, \
                   s.expires_at, s.idle_timeout_s, s.persistent, host(s.ip) AS ip, s.revoked_at, \
                   s.alive, CASE WHEN $13 THEN left(s.label, {MAX_LABEL_CHARS}) END AS label, \
                   CASE WHEN $13 THEN left(s.user_agent, {MAX_USER_AGENT_CHARS}) END \
                       AS user_agent, \
                   CASE WHEN $13 THEN left(s.ended_by, {MAX_REASON_CHARS}) END AS ended_by, \
                   CASE WHEN $13 THEN left(s.ended_reason, {MAX_REASON_CHARS}) END AS ended_reason \
                 FROM {facts} f LEFT JOIN LATERAL ( \
                   SELECT p.* FROM page p WHERE (p.alive OR $12) \
                     AND ($1::text IS NULL OR p.user_id = $1) AND ($2::uuid IS NULL OR p.id = $2) \
                     AND ($6::text IS NULL OR p.created_at < $6::text::timestamptz) \
                     AND ($7::text IS NULL OR p.created_at >= $7::text::timestamptz) \
                     AND ($8::text IS NULL OR p.last_seen_at < $8::text::timestamptz) \
                     AND ($9::text IS NULL OR p.ip <<= $9::text::inet) \
                     AND ($10::text IS NULL OR p.label = $10) \
                     AND ($11::boolean IS NULL OR p.persistent = $11)) s ON true ORDER BY s.n"
            ))
        };
        Self {
            of_id: search("s.id = $2 AND ($3::text IS NOT NULL OR $4::uuid IS NOT NULL)", "s.id"),
            of_user: search(
                "s.user_id = $1 AND (s.created_at, s.id) < ($3::text::timestamptz, $4::uuid)",
                "s.created_at DESC, s.id DESC",
            ),
            of_all: search("s.id > $4::uuid AND $3::text IS NOT NULL", "s.id"),
        }
    }
}

/// Asserts that a statement is safe: [`SchemaName`] is the only text put into these strings.
fn sql(statement: String) -> SqlStr {
    AssertSqlSafe(std::sync::Arc::<str>::from(statement)).into_sql_str()
}

impl Statements {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let fragments = &Fragments::new(schema);
        let Fragments { sessions, users, nodes, facts, epoch, alive, columns, listed } = fragments;
        let quoted = schema.quoted();
        Self {
            // $1 digests. The facts come with the row of the first digest alone, and the user's
            // epoch is looked up once per session.
            load: sql(format!(
                "SELECT f.*, d.n, {columns}, s.epoch, s.counts_until, \
                 s.revoked_at IS NOT NULL OR s.user_epoch < coalesce(s.epoch, 0) AS revoked, \
                 {IN_TIME} AS in_time \
                 FROM (SELECT f.*, 1::bigint AS one FROM {facts} f) f \
                 FULL JOIN unnest($1::bytea[]) WITH ORDINALITY AS d(digest, n) ON d.n = f.one \
                 LEFT JOIN LATERAL ( \
                   SELECT s.*, {epoch} AS epoch, NULL::timestamptz AS counts_until \
                   FROM {sessions} s WHERE s.token_digest = d.digest \
                   UNION ALL \
                   SELECT s.*, {epoch}, s.previous_until FROM {sessions} s \
                   WHERE s.previous_digest = d.digest AND s.previous_until > now() \
                 ) s ON true \
                 ORDER BY d.n, s.counts_until NULLS FIRST"
            )),
            // $1 user, $2 and $3 the place after which the page begins, $4 the limit, $5 whether to
            // return texts. The epoch is that of $1, not of each row, to look it up once.
            list: sql(format!(
                "SELECT f.*, {listed} FROM {facts} f LEFT JOIN LATERAL ( \
                   SELECT s.id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at, \
                     s.idle_timeout_s, s.persistent, s.label, s.ip, s.user_agent \
                   FROM {sessions} s \
                   WHERE s.user_id = $1 AND (s.created_at, s.id) < ($2::text::timestamptz, $3) \
                     AND s.revoked_at IS NULL AND {IN_TIME} \
                     AND s.user_epoch >= coalesce((SELECT u.epoch FROM {users} u WHERE u.user_id = \
                   $1), 0) ORDER BY s.created_at DESC, s.id DESC LIMIT $4 \
                 ) s ON true ORDER BY s.created_at DESC, s.id DESC"
            )),
            search: Pages::new(fragments),
            estimated_rows: sql(format!(
                "SELECT f.*, (SELECT c.reltuples::bigint FROM pg_class c \
                   WHERE c.oid = '{sessions}'::regclass) AS estimated FROM {facts} f"
            )),
            // This looks up an id that no session has, by primary key. Reading any row (LIMIT 1)
            // would scan every page of deleted rows.
            probe: sql(format!(
                "SELECT f.*, s.id FROM {facts} f LEFT JOIN {sessions} s \
                 ON s.id = uuid '00000000-0000-0000-0000-000000000000'"
            )),
            journal: sql(read_journal(facts, &quoted)),
            begin_life: sql(format!("SELECT {quoted}.begin_life()")),
            // $1 and $2 the target
            digests: PerTarget::new(|matches| {
                format!(
                    "SELECT f.*, current_setting('transaction_read_only')::boolean AS read_only, \
                     s.id, s.token_digest, s.previous_digest, s.former_digests \
                     FROM {facts} f LEFT JOIN {sessions} s ON {matches}"
                )
            }),
            // $1 user, $2 the epoch now, $3 the limit, $4 the epoch before. `ended`: whether the
            // raise to that epoch ended the session.
            digests_of_user: sql(format!(
                "SELECT f.*, s.* FROM {facts} f LEFT JOIN LATERAL ( \
                   SELECT s.id, s.token_digest, s.previous_digest, s.former_digests, \
                     s.revoked_at IS NULL AND s.user_epoch >= $4 AND s.user_epoch < $2 AND \
                   {IN_TIME} AS ended FROM {sessions} s WHERE s.user_id = $1 AND {MAY_BE_CACHED} \
                   ORDER BY s.created_at DESC, s.id DESC LIMIT $3) s ON true"
            )),
            // $1 and $2 the target, $3 reason, $4 actor. The row is returned as it was when the
            // statement began, and again if this statement ended it. A rotation may have come
            // between.
            revoke: PerTarget::new(|matches| {
                format!(
                    "WITH ended AS ( \
                       UPDATE {sessions} s SET revoked_at = now(), ended_reason = $3, \
                         ended_by = $4 WHERE {matches} AND {alive} \
                       RETURNING s.id, s.token_digest, s.previous_digest, s.former_digests) \
                     SELECT f.*, s.id, s.token_digest, s.previous_digest, s.former_digests, \
                       {alive} AS alive, e.id AS ended, e.token_digest AS ended_token, \
                       e.previous_digest AS ended_previous, \
                       e.former_digests AS ended_former_digests \
                     FROM {facts} f LEFT JOIN {sessions} s ON {matches} \
                     LEFT JOIN ended e ON e.id = s.id"
                )
            }),
            // $1 user
            add_user: sql(format!(
                "INSERT INTO {users} (user_id) VALUES ($1) ON CONFLICT DO NOTHING"
            )),
            login_snapshot: sql(format!("SELECT f.*, {SNAPSHOT} AS login_snapshot FROM {facts} f")),
            create: sql(create(users, sessions, facts, columns, &quoted)),
            // $1 user, $2 the spared session (or NULL). The epoch is not raised if that session may
            // be hidden. The triggers record the transaction, and write one journal row for all
            // sessions of earlier epochs. The new epoch is above that of every session, even if an
            // operator has deleted the user's row.
            //
            // The spared session is read after the user's row is locked. Another raise may have
            // lifted or ended it while this one waited.
            raise_epoch: sql(format!(
                "WITH f AS MATERIALIZED (SELECT * FROM {facts} f), \
                 was AS MATERIALIZED ( \
                   SELECT coalesce((SELECT u.epoch FROM {users} u WHERE u.user_id = $1), 0) AS \
                 epoch), raised AS ( \
                   INSERT INTO {users} AS u (user_id, epoch) \
                   SELECT $1, 1 + coalesce((SELECT max(s.user_epoch) FROM {sessions} s WHERE \
                   s.user_id = $1), 0) FROM f WHERE $2::uuid IS NULL OR NOT f.sessions_hidden \
                   ON CONFLICT (user_id) DO UPDATE SET epoch = greatest(u.epoch + 1, \
                 excluded.epoch) RETURNING u.epoch), looked AS MATERIALIZED ( \
                   SELECT s.id, s.user_epoch, s.revoked_at IS NULL AND {IN_TIME} AS in_time \
                   FROM raised JOIN {sessions} s ON s.id = $2 AND s.user_id = $1 FOR NO KEY UPDATE \
                 OF s), spared AS ( \
                   UPDATE {sessions} s SET user_epoch = raised.epoch FROM raised, looked l \
                   WHERE s.id = l.id AND l.in_time AND l.user_epoch >= raised.epoch - 1) \
                 SELECT f.*, raised.epoch, was.epoch AS was, \
                   pg_current_xact_id()::text::bigint AS xid \
                 FROM f CROSS JOIN was LEFT JOIN raised ON true"
            )),
            // $1 user, $2 the epoch now, $3 the epoch before
            count_ended: sql(format!(
                "SELECT f.*, (SELECT count(*) FROM {sessions} s WHERE s.user_id = $1 AND \
                   s.revoked_at IS NULL AND s.user_epoch >= $3 AND s.user_epoch < $2 AND \
                   {IN_TIME}) AS ended FROM {facts} f"
            )),
            // $1 user, $2 the epoch now, $3 reason, $4 and $5 the place after which to continue, $6
            // the limit, $7 actor. Locked rows are skipped, because the epoch has ended their
            // sessions.
            end_rows: sql(format!(
                "WITH page AS MATERIALIZED ( \
                   SELECT s.id, s.created_at FROM {sessions} s WHERE s.user_id = $1 \
                     AND (s.created_at, s.id) < ($4::text::timestamptz, $5) \
                   ORDER BY s.created_at DESC, s.id DESC LIMIT $6), \
                 ended AS ( \
                   UPDATE {sessions} s SET revoked_at = now(), ended_reason = $3, ended_by = $7 \
                   WHERE s.id IN ( \
                     SELECT l.id FROM {sessions} l WHERE l.id IN (SELECT p.id FROM page p) \
                       AND l.revoked_at IS NULL AND l.user_epoch < $2 AND l.expires_at > now() \
                     FOR NO KEY UPDATE SKIP LOCKED)) \
                 SELECT f.*, p.id AS last, p.created_at AS last_created_at \
                 FROM {facts} f LEFT JOIN LATERAL ( \
                   SELECT p.id, p.created_at FROM page p ORDER BY p.created_at, p.id LIMIT 1) p ON \
                   true"
            )),
            // $1 id, $2 version, $3 data. Setting the version makes it a change even if the data is
            // the same, because the caller's copy is out of date either way.
            update: sql(format!(
                "WITH made AS ( \
                   UPDATE {sessions} s SET data = $3::text::json, version = s.version + 1 \
                   WHERE s.id = $1 AND s.version = $2 AND {alive} RETURNING s.*) \
                 SELECT f.*, {columns}, s.id AS made, w.id AS was, w.version = $2 AS expected, \
                   w.alive, w.epoch, s.token_digest, s.previous_digest, s.former_digests \
                 FROM {facts} f \
                 LEFT JOIN (SELECT s.id, s.version, {alive} AS alive, {epoch} AS epoch \
                   FROM {sessions} s WHERE s.id = $1) w ON true \
                 LEFT JOIN made s ON true"
            )),
            // $1 old, $2 new, $3 grace in microseconds. The old digest stays in its column even
            // without grace, so that a second rotation of it is a conflict.
            rotate: sql(format!(
                "WITH made AS ( \
                   UPDATE {sessions} s SET token_digest = $2, previous_digest = s.token_digest, \
                     former_digests = CASE WHEN s.previous_digest IS NULL THEN s.former_digests \
                       ELSE (array_prepend(s.previous_digest, s.former_digests))[1:16] END, \
                     previous_until = now() + $3 * interval '1 microsecond' \
                   WHERE s.token_digest = $1 AND {alive} RETURNING s.*) \
                 SELECT f.*, {columns}, s.id AS made, w.id AS was, w.token_digest = $1 AS \
                   expected, w.alive, w.epoch, s.token_digest, s.previous_digest, s.former_digests \
                 FROM {facts} f \
                 LEFT JOIN (SELECT s.id, s.token_digest, s.previous_digest, s.former_digests, \
                     {alive} AS alive, {epoch} AS epoch \
                   FROM (SELECT * FROM {sessions} WHERE token_digest = $1 \
                     UNION ALL SELECT * FROM {sessions} WHERE previous_digest = $1) s \
                   ORDER BY s.token_digest = $1 DESC LIMIT 1) w ON true \
                 LEFT JOIN made s ON true"
            )),
            // $1 id, $2 granularity in microseconds. It waits for no lock, and its commit for no
            // disk and no standby, because a request would wait with it. A touch that a crash loses
            // costs a session a part of its idle time. The setting is here because neither an
            // application's pool nor a pooler would have it on the connection.
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
            // $1 how long ended sessions are kept, in microseconds, $2 the limit
            sweep: sql(format!(
                "SELECT f.*, {quoted}.sweep_sessions($1 * interval '1 microsecond', $2) AS removed \
                 FROM {facts} f"
            )),
            // $1 the user, $2 the limit
            erase_sessions: sql(format!(
                "SELECT f.*, {quoted}.erase_sessions($1, $2) AS removed FROM {facts} f"
            )),
            // $1 how long users without sessions are kept, in microseconds, $2 the user after which
            // to continue, $3 the limit
            sweep_users: sql(format!(
                "SELECT f.*, u.removed, u.last \
                 FROM {facts} f, {quoted}.sweep_users($1 * interval '1 microsecond', $2, $3) u"
            )),
            // $1 the registration, $2 its cache, $3 how long it is valid, in microseconds
            register_node: sql(format!(
                "SELECT f.*, {quoted}.register_node($1::uuid, $2::bytea, $3 * interval '1 \
                 microsecond')::text FROM {facts} f"
            )),
            // $1 the registration
            forget_node: sql(format!(
                "SELECT f.*, {quoted}.forget_node($1::uuid)::text FROM {facts} f"
            )),
            // $1 a cache. `one`: whether every registration names it.
            one_cache: sql(format!(
                "SELECT f.*, NOT EXISTS (SELECT FROM {nodes} n WHERE n.until > now() AND n.cache \
                 <> $1) AS one FROM {facts} f"
            )),
            // A table of ours that hides rows from our role.
            hidden: sql(format!(
                "SELECT current_user::text AS role, (SELECT c.relname::text \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = '{schema}' AND row_security_active(c.oid) AND c.relname IN \
                   ('sessions', 'session_users', 'session_journal', 'session_nodes') LIMIT 1) AS \
                   hidden"
            )),
        }
    }
}

/// Returns the statement that reads a page of the journal. $1 the snapshot of the last complete
/// read, or NULL if there was none, $2 and $3 the row after which the page begins, $4 the maximum
/// of rows of a page, $5 whether to return users' ids. The [`Facts`](super::rows::Facts) come with
/// the first row alone.
fn read_journal(facts: &str, quoted: &str) -> String {
    format!(
        "SELECT f.*, p.id AS entry, p.xid::text AS xid, p.kind, p.session_id, p.digest, \
           p.previous_digest, p.version, CASE WHEN $5 THEN p.user_id END AS user_id, p.user_epoch \
         FROM (SELECT f.*, pg_current_snapshot()::text AS seen, 1::bigint AS one FROM {facts} f) f \
         FULL JOIN ( \
           SELECT r.*, row_number() OVER (ORDER BY r.xid, r.id) AS n \
           FROM {quoted}.journal_page($1::text::pg_snapshot, $2::text::xid8, $3::bigint, $4) r \
         ) p ON p.n = f.one ORDER BY p.n"
    )
}

/// The snapshot of a login: the life, and the commits that Postgres had made.
const SNAPSHOT: &str = "concat_ws(':', coalesce(f.life::text, ''), pg_current_snapshot())";

/// Returns the statement that creates a session. $1 id, $2 user, $3 digest, $4 data, $5 label, $6
/// ip, $7 user agent, $8 idle timeout in seconds, $9 lifetime in microseconds, $10 the snapshot at
/// which the login began (NULL: now), $11 persistent.
///
/// The user's row is locked first. After the wait for a revoke-all that holds it, the statement has
/// the row that the revoke-all left. Its snapshot is older, and shows that transaction as running.
///
/// A login of another life is rejected, because its snapshot does not show later changes. A raise
/// counts if its transaction is one of this server. It is of this run, or was prepared in an
/// earlier one and still open when this life began.
fn create(users: &str, sessions: &str, facts: &str, columns: &str, quoted: &str) -> String {
    format!(
        "WITH f AS MATERIALIZED (SELECT * FROM {facts} f), \
         who AS MATERIALIZED ( \
           SELECT u.epoch, u.raised_by, u.raised_in FROM {users} u WHERE u.user_id = $2 FOR \
         SHARE), begun AS MATERIALIZED ( \
           SELECT login_snapshot, split_part(login_snapshot, ':', 1) AS life, \
             substring(login_snapshot FROM '^[^:]*:(.*)$')::pg_snapshot AS snapshot \
           FROM (SELECT coalesce($10, {SNAPSHOT}) AS login_snapshot FROM f) m), \
         since AS MATERIALIZED ( \
           SELECT begun.life <> coalesce(f.life::text, '') \
             OR EXISTS (SELECT FROM who WHERE NOT pg_visible_in_snapshot(who.raised_by, \
               begun.snapshot) AND (who.raised_in = pg_postmaster_start_time() OR who.raised_by IN \
                 ( SELECT pg_snapshot_xip(l.begun) FROM {quoted}.this_life() l))) AS superseded \
           FROM begun CROSS JOIN f), \
         made AS ( \
           INSERT INTO {sessions} AS s (id, token_digest, user_id, user_epoch, data, label, ip, \
             user_agent, idle_timeout_s, expires_at, persistent) \
           SELECT $1, $3, $2, who.epoch, $4::text::json, $5, $6::text::inet, $7, $8, \
             now() + $9 * interval '1 microsecond', $11 \
           FROM who CROSS JOIN since CROSS JOIN f \
           WHERE NOT since.superseded AND f.life IS NOT NULL \
             AND NOT EXISTS (SELECT FROM {sessions} p WHERE p.previous_digest = $3) \
           ON CONFLICT DO NOTHING RETURNING s.*) \
         SELECT f.*, {columns}, begun.login_snapshot, who.epoch IS NOT NULL AS user_known, \
         since.superseded FROM f CROSS JOIN begun CROSS JOIN since LEFT JOIN who ON true LEFT JOIN \
         made s ON true"
    )
}
