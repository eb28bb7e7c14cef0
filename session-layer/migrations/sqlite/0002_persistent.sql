-- "Remember me": the session's cookie outlives the browser. Of no account for whether a session is valid.
ALTER TABLE sessions ADD COLUMN persistent BOOLEAN NOT NULL DEFAULT false;

-- As before, with the new column among those that make a change.
DROP TRIGGER sessions_journal_update;

-- A trigger's own UPDATE does not fire it again (recursive_triggers is off).
CREATE TRIGGER sessions_journal_update AFTER UPDATE ON sessions
WHEN NEW.last_seen_at < OLD.last_seen_at
  OR (NEW.id, NEW.token_digest, NEW.previous_digest, NEW.previous_until, NEW.user_id,
      NEW.user_epoch, NEW.data, NEW.version, NEW.label, NEW.ip, NEW.user_agent, NEW.created_at,
      NEW.authenticated_at, NEW.idle_timeout_s, NEW.expires_at, NEW.revoked_at, NEW.ended_reason,
      NEW.persistent)
  IS NOT
     (OLD.id, OLD.token_digest, OLD.previous_digest, OLD.previous_until, OLD.user_id,
      OLD.user_epoch, OLD.data, OLD.version, OLD.label, OLD.ip, OLD.user_agent, OLD.created_at,
      OLD.authenticated_at, OLD.idle_timeout_s, OLD.expires_at, OLD.revoked_at, OLD.ended_reason,
      OLD.persistent)
BEGIN
    UPDATE sessions SET version = OLD.version + 1 WHERE id = NEW.id;
    INSERT INTO session_journal (session_id, digest, previous_digest, kind, version)
    VALUES (OLD.id, OLD.token_digest, OLD.previous_digest,
            CASE WHEN NEW.revoked_at IS NULL THEN 'updated' ELSE 'revoked' END,
            CASE WHEN NEW.revoked_at IS NULL THEN OLD.version + 1 END);
END;
