-- Whoever changes sessions and removes rows of the journal in one transaction: the floor is past that transaction as
-- well, for the rows that tell of its own changes are gone. (Its own snapshot does not count it.)
CREATE OR REPLACE FUNCTION session_journal_raise_floor() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    here  bigint := (SELECT system_identifier FROM pg_control_system());
    above bigint := greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                             pg_current_xact_id()::text::bigint + 1);
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
