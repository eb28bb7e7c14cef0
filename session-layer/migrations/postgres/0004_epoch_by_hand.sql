-- An epoch that a person raises by hand ends the sessions themselves, so that the journal tells every node: by the
-- epoch alone they would be dead here, and go on as cached copies.
--
-- Deferred to the COMMIT, for revoke_all raises the epoch first and then ends the sessions itself, with its caller's
-- reason, and lifts the one that it spares into the new epoch: it leaves nothing to do. The owner's rights: who may
-- raise an epoch may need none on the sessions.
CREATE FUNCTION session_users_end_sessions() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'an epoch can be raised in READ COMMITTED only'
            USING HINT = 'an older snapshot lacks the sessions that were made meanwhile';
    END IF;
    UPDATE sessions SET revoked_at = now(), ended_reason = 'the epoch was raised'
     WHERE user_id = NEW.user_id AND user_epoch < NEW.epoch AND revoked_at IS NULL AND expires_at > now();
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER session_users_end_first AFTER INSERT ON session_users
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.epoch > 0) EXECUTE FUNCTION session_users_end_sessions();

CREATE CONSTRAINT TRIGGER session_users_end_sessions AFTER UPDATE ON session_users
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.epoch > OLD.epoch) EXECUTE FUNCTION session_users_end_sessions();

REVOKE EXECUTE ON FUNCTION session_users_end_sessions() FROM PUBLIC;
