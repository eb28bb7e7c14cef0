-- Every token a session had, and housekeeping: the journal is purged, and sessions that ended long ago are
-- swept.

-- The digests before the previous one, newest first, as far as there may be copies under them: whoever
-- ends the session removes those too. (A second rotation within a grace takes the first token out of
-- previous_digest; were its own UNLINK lost, nobody would know the key any more.)
ALTER TABLE sessions ADD COLUMN former_digests bytea[] NOT NULL DEFAULT '{}';

-- Both functions below have the owner's rights: a role that uses the sessions needs no right to DELETE for
-- them, and can remove nothing by them that anything alive depends on. The advisory locks keep the nodes
-- of a service from doing the same at once; who comes second does nothing.

-- Sessions that were revoked are found by this, others by expires_at.
CREATE INDEX sessions_revoked_at ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX session_journal_at ON session_journal (at);

-- A dump takes the floor along to a system whose transaction ids say nothing of it.
ALTER TABLE session_store ADD COLUMN floor_system bigint;

-- The floor: whoever removes rows from the journal raises it past them in the same transaction, also a person
-- by hand. A node that reads the journal sees either both or neither, and believes no copy whose read may not
-- have seen a transaction below the floor.
--
-- Rows that came here with a dump may be of transactions that are still to come here; the floor is not for them.
CREATE FUNCTION session_journal_raise_floor() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    here  bigint := (SELECT system_identifier FROM pg_control_system());
    above bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
BEGIN
    -- TRUNCATE waits for all who write, so all that was in it is of transactions below: by a snapshot of now.
    IF TG_OP = 'TRUNCATE' AND current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the journal can be truncated in READ COMMITTED only'
            USING HINT = 'an older snapshot does not know which changes are lost with it';
    END IF;
    IF TG_OP = 'DELETE' THEN
        IF NOT EXISTS (SELECT FROM gone) THEN
            RETURN NULL;
        END IF;
        above := least(above, (SELECT max(xid::text::bigint) + 1 FROM gone));
    END IF;
    UPDATE session_store
       SET journal_floor = CASE WHEN floor_system = here THEN greatest(journal_floor, above::text::xid8)
                                ELSE above::text::xid8 END,
           floor_system = here;
    RETURN NULL;
END $$;

CREATE TRIGGER session_journal_delete AFTER DELETE ON session_journal
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION session_journal_raise_floor();
CREATE TRIGGER session_journal_truncate AFTER TRUNCATE ON session_journal
    FOR EACH STATEMENT EXECUTE FUNCTION session_journal_raise_floor();

REVOKE EXECUTE ON FUNCTION session_journal_raise_floor() FROM PUBLIC;

-- Removes what is older than `keep`, at most 50,000 rows at a time. With the floor that is a matter of hits lost, as long as no transaction id
-- is used twice. A standby that is promoted may do that: so rows have to outlive every copy that is older than
-- they are.
--
-- Never past the oldest transaction still running: while one is, every fresh read says so (xmin), and its
-- copy would be below the floor for as long.
CREATE FUNCTION purge_journal(keep interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    removed bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock('session_journal'::regclass::oid::bigint << 8 | 1) THEN
        RETURN 0;
    END IF;
    DELETE FROM session_journal WHERE id IN (
        SELECT id FROM session_journal
         WHERE at < now() - keep AND xid < pg_snapshot_xmin(pg_current_snapshot())
         ORDER BY at LIMIT 50000);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

-- Removes at most `most` sessions that ended or expired longer ago than `retention`. Rows that are locked
-- are somebody's; they are left for the next time. The trigger writes no journal for them: they were dead.
CREATE FUNCTION sweep_sessions(retention interval, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    removed bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock('sessions'::regclass::oid::bigint << 8 | 2) THEN
        RETURN 0;
    END IF;
    DELETE FROM sessions WHERE id IN (
        SELECT id FROM sessions
         WHERE expires_at < now() - retention OR revoked_at < now() - retention
         LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;
