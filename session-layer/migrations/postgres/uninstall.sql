-- Removes what session-layer's migrations made, and nothing else; all sessions end.
--
--     psql "$DATABASE_URL" -v schema=session_layer -f uninstall.sql
--
-- The schema goes too if nothing else is in it (never `public`).

\set ON_ERROR_STOP on
\if :{?schema}
\else
    \set schema session_layer
\endif

BEGIN;

-- A missing schema is nothing to remove, and no error.
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :'schema') AS there \gset
\if :there
    -- It returns rows of a table.
    DROP FUNCTION IF EXISTS :"schema".journal_page(pg_snapshot, xid8, bigint, bigint);
    DROP TABLE IF EXISTS
        :"schema".sessions,
        :"schema".session_users,
        :"schema".session_journal,
        :"schema".session_life,
        :"schema".session_nodes,
        :"schema".session_layer_migrations;
    DROP FUNCTION IF EXISTS
        :"schema".sessions_raise_version(),
        :"schema".sessions_write_journal(),
        :"schema".session_users_note_raise(),
        :"schema".session_users_write_journal(),
        :"schema".session_users_keep_ended(),
        :"schema".session_journal_raise_floor(),
        :"schema".purge_journal(interval),
        :"schema".sweep_sessions(interval, integer),
        :"schema".erase_sessions(text, integer),
        :"schema".sweep_users(interval, text, integer),
        :"schema".register_node(uuid, bytea, interval),
        :"schema".forget_node(uuid),
        :"schema".begin_life(),
        :"schema".this_life();
    SELECT format('DROP SCHEMA %I', n.nspname)
      FROM pg_namespace n
     WHERE n.nspname = :'schema' AND n.nspname <> 'public'
       AND NOT EXISTS (SELECT FROM pg_depend d
                        WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid)
    \gexec
\endif

COMMIT;
