-- An epoch that a person raises by hand ends the sessions themselves, so that the journal tells every node: by the
-- epoch alone they would be dead here, and go on as cached copies.
--
-- revoke_all ends them in its own next statement, all but the one it spares, and says so by this setting. The owner's
-- rights: who may raise an epoch may need no right on the sessions.
CREATE FUNCTION session_users_end_sessions() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('session_layer.ends_sessions', true) = 'on' THEN
        RETURN NULL;
    END IF;
    UPDATE sessions SET revoked_at = now(), ended_reason = 'the epoch was raised'
     WHERE user_id = NEW.user_id AND user_epoch < NEW.epoch AND revoked_at IS NULL AND expires_at > now();
    RETURN NULL;
END $$;

CREATE TRIGGER session_users_end_first AFTER INSERT ON session_users
    FOR EACH ROW WHEN (NEW.epoch > 0) EXECUTE FUNCTION session_users_end_sessions();

CREATE TRIGGER session_users_end_sessions AFTER UPDATE ON session_users
    FOR EACH ROW WHEN (NEW.epoch > OLD.epoch) EXECUTE FUNCTION session_users_end_sessions();

REVOKE EXECUTE ON FUNCTION session_users_end_sessions() FROM PUBLIC;
