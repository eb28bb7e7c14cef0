-- Sessions, who may still use them, and the journal of what changed.
--
-- Every name is unqualified: the migration runs in one transaction with search_path set to our
-- schema (then pg_temp), and the functions keep that path (SET search_path FROM CURRENT).
-- Needs Postgres 13 (xid8, pg_snapshot).

CREATE TABLE sessions (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- SHA-256 of the token's text: sha256(convert_to(token, 'UTF8'))
    token_digest     bytea NOT NULL UNIQUE CHECK (octet_length(token_digest) = 32),
    -- The digest before the last rotation; it counts until previous_until.
    previous_digest  bytea UNIQUE CHECK (octet_length(previous_digest) = 32),
    previous_until   timestamptz,
    user_id          text NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 200),
    -- The user's epoch at the login: a session of an earlier epoch is dead, whatever else it says.
    user_epoch       bigint NOT NULL DEFAULT 0,
    data             jsonb NOT NULL DEFAULT '{}',
    -- Raised by a trigger with every change except last_seen_at moving forward.
    version          bigint NOT NULL DEFAULT 1,
    label            text,
    ip               inet,
    user_agent       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    authenticated_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at     timestamptz NOT NULL DEFAULT now(),
    idle_timeout_s   integer CHECK (idle_timeout_s > 0),
    expires_at       timestamptz NOT NULL,
    -- Set: the session has ended. A person may set it by hand.
    revoked_at       timestamptz,
    ended_reason     text
) WITH (fillfactor = 85); -- room for a touch to stay on its page (HOT)

CREATE INDEX sessions_user_id ON sessions (user_id, created_at DESC);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

-- One row per user who ever logged in. Revoking all of a user's sessions raises the epoch first,
-- so that a login under way (it locks the row FOR SHARE) either is seen by the revocation or sees it.
CREATE TABLE session_users (
    user_id   text PRIMARY KEY CHECK (char_length(user_id) BETWEEN 1 AND 200),
    epoch     bigint NOT NULL DEFAULT 0,
    -- The transaction that raised the epoch last, kept by a trigger.
    raised_by xid8,
    raised_at timestamptz
);

-- What changed. Each node reads it every half second, drops the cached copies of what is in it, and
-- believes no older copy of those sessions.
CREATE TABLE session_journal (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- NULL: every session there was before this transaction (TRUNCATE).
    session_id      uuid,
    -- The digests before the change.
    digest          bytea,
    previous_digest bytea,
    kind            text NOT NULL CHECK (kind IN ('updated', 'revoked', 'deleted', 'truncated')),
    -- For 'updated': the least version that is still true.
    version         bigint,
    at              timestamptz NOT NULL DEFAULT now()
);

-- A read begins at the xmin of the snapshot of the read before it.
CREATE INDEX session_journal_xid ON session_journal (xid);

CREATE TABLE session_store (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Two environments that share one Redis tell their sessions apart by it.
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Nothing older than this transaction is in the journal any more.
    journal_floor xid8 NOT NULL DEFAULT '0'
);
INSERT INTO session_store DEFAULT VALUES;

-- Neither secret nor private: a role that may use the sessions may read which store they are in.
-- (Who has no USAGE on the schema gets nowhere near it.)
GRANT SELECT ON session_store TO PUBLIC;

-- Raises the version with every change but a touch. *= compares the stored bytes, so that no
-- operator's idea of equality ('1.0' = '1.00') hides a change.
CREATE FUNCTION sessions_raise_version() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    untouched sessions%ROWTYPE := NEW;
BEGIN
    IF NEW.last_seen_at >= OLD.last_seen_at THEN
        untouched.last_seen_at := OLD.last_seen_at;
    END IF;
    IF untouched *= OLD THEN
        RETURN NEW;
    END IF;
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER sessions_raise_version BEFORE UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION sessions_raise_version();

-- SECURITY DEFINER: with the invoker's rights a plain UPDATE by a role that has rights on the
-- sessions, but none on the journal, would fail.
CREATE FUNCTION sessions_write_journal() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO session_journal (kind) VALUES ('truncated');
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO session_journal (session_id, digest, previous_digest, kind)
        VALUES (OLD.id, OLD.token_digest, OLD.previous_digest, 'deleted');
    ELSE
        INSERT INTO session_journal (session_id, digest, previous_digest, kind, version)
        VALUES (OLD.id, OLD.token_digest, OLD.previous_digest,
                CASE WHEN NEW.revoked_at IS NULL THEN 'updated' ELSE 'revoked' END,
                CASE WHEN NEW.revoked_at IS NULL THEN NEW.version END);
    END IF;
    RETURN NULL;
END $$;

-- A change is what raised the version.
CREATE TRIGGER sessions_journal_update AFTER UPDATE ON sessions
    FOR EACH ROW WHEN (NEW.version <> OLD.version)
    EXECUTE FUNCTION sessions_write_journal();

-- Purging what is dead already must not flood the journal. now() is when the transaction began, so
-- this errs towards writing.
CREATE TRIGGER sessions_journal_delete AFTER DELETE ON sessions
    FOR EACH ROW WHEN (
        OLD.revoked_at IS NULL
        AND OLD.expires_at > now()
        AND (OLD.idle_timeout_s IS NULL
             OR OLD.last_seen_at + OLD.idle_timeout_s * interval '1 second' > now()))
    EXECUTE FUNCTION sessions_write_journal();

CREATE TRIGGER sessions_journal_truncate AFTER TRUNCATE ON sessions
    FOR EACH STATEMENT EXECUTE FUNCTION sessions_write_journal();

-- Notes who raised an epoch, also where that is done by plain SQL: a login compares it.
CREATE FUNCTION session_users_note_raise() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.raised_by := pg_current_xact_id();
    NEW.raised_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER session_users_note_first BEFORE INSERT ON session_users
    FOR EACH ROW WHEN (NEW.epoch <> 0) EXECUTE FUNCTION session_users_note_raise();

CREATE TRIGGER session_users_note_raise BEFORE UPDATE ON session_users
    FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch) EXECUTE FUNCTION session_users_note_raise();

-- A trigger runs without this right; without the revocation anyone could hang these functions on a
-- table of their own and write our journal.
REVOKE EXECUTE ON FUNCTION
    sessions_raise_version(), sessions_write_journal(), session_users_note_raise() FROM PUBLIC;
