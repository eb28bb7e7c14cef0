-- Sessions, users and the journal in SQLite, for one process with one file. Unlike in Postgres there are no former digests,
-- no registrations of nodes, and no lives of the server.
--
-- Moments are microseconds since 1970, ids are UUIDs as text, data is JSON as text.

CREATE TABLE sessions (
    id               TEXT PRIMARY KEY NOT NULL,
    -- SHA-256 of the token's text
    token_digest     BLOB NOT NULL UNIQUE CHECK (length(token_digest) = 32),
    -- The digest before the last rotation. It is valid until previous_until.
    previous_digest  BLOB UNIQUE CHECK (length(previous_digest) = 32),
    previous_until   INTEGER,
    user_id          TEXT NOT NULL CHECK (length(user_id) BETWEEN 1 AND 200),
    -- The user's epoch at the login. A session of an earlier epoch has ended, whatever its other columns.
    user_epoch       INTEGER NOT NULL DEFAULT 0,
    data             TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(data)),
    -- Raised by a trigger with every change except last_seen_at moving forward.
    version          INTEGER NOT NULL DEFAULT 1,
    label            TEXT,
    ip               TEXT,
    user_agent       TEXT,
    created_at       INTEGER NOT NULL,
    authenticated_at INTEGER NOT NULL,
    last_seen_at     INTEGER NOT NULL,
    idle_timeout_s   INTEGER CHECK (idle_timeout_s > 0),
    expires_at       INTEGER NOT NULL,
    -- "Remember me": the cookie outlives the browser. It does not decide whether the session is valid.
    persistent       BOOLEAN NOT NULL DEFAULT false,
    -- Set: the session has ended. An operator may set it.
    revoked_at       INTEGER,
    -- Who ended the session, and why, for operators.
    ended_by         TEXT,
    ended_reason     TEXT
);

CREATE INDEX sessions_user_id ON sessions (user_id, created_at DESC);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

CREATE TABLE session_users (
    user_id   TEXT PRIMARY KEY NOT NULL CHECK (length(user_id) BETWEEN 1 AND 200),
    epoch     INTEGER NOT NULL DEFAULT 0,
    -- The number of the revoke-all that raised the epoch last.
    raised_by INTEGER,
    raised_at INTEGER
) WITHOUT ROWID;

CREATE TABLE session_journal (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id      TEXT,
    digest          BLOB,
    previous_digest BLOB,
    kind            TEXT NOT NULL CHECK (kind IN ('updated', 'revoked', 'deleted')),
    version         INTEGER,
    at              INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000)
);

CREATE TABLE session_store (
    one BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    id  BLOB NOT NULL DEFAULT (randomblob(16))
);
INSERT INTO session_store DEFAULT VALUES;

-- A trigger's own UPDATE does not fire it again (recursive_triggers is off).
CREATE TRIGGER sessions_journal_update AFTER UPDATE ON sessions
WHEN NEW.last_seen_at < OLD.last_seen_at
  OR (NEW.id, NEW.token_digest, NEW.previous_digest, NEW.previous_until, NEW.user_id,
      NEW.user_epoch, NEW.data, NEW.version, NEW.label, NEW.ip, NEW.user_agent, NEW.created_at,
      NEW.authenticated_at, NEW.idle_timeout_s, NEW.expires_at, NEW.revoked_at, NEW.ended_by,
      NEW.ended_reason, NEW.persistent)
  IS NOT
     (OLD.id, OLD.token_digest, OLD.previous_digest, OLD.previous_until, OLD.user_id,
      OLD.user_epoch, OLD.data, OLD.version, OLD.label, OLD.ip, OLD.user_agent, OLD.created_at,
      OLD.authenticated_at, OLD.idle_timeout_s, OLD.expires_at, OLD.revoked_at, OLD.ended_by,
      OLD.ended_reason, OLD.persistent)
BEGIN
    UPDATE sessions SET version = OLD.version + 1 WHERE id = NEW.id;
    INSERT INTO session_journal (session_id, digest, previous_digest, kind, version)
    VALUES (OLD.id, OLD.token_digest, OLD.previous_digest,
            CASE WHEN NEW.revoked_at IS NULL THEN 'updated' ELSE 'revoked' END,
            CASE WHEN NEW.revoked_at IS NULL THEN OLD.version + 1 END);
END;

CREATE TRIGGER sessions_journal_delete AFTER DELETE ON sessions
WHEN OLD.revoked_at IS NULL
 AND OLD.expires_at > CAST(strftime('%s', 'now') AS INTEGER) * 1000000
 AND (OLD.idle_timeout_s IS NULL OR OLD.last_seen_at + OLD.idle_timeout_s * 1000000
      > CAST(strftime('%s', 'now') AS INTEGER) * 1000000)
BEGIN
    INSERT INTO session_journal (session_id, digest, previous_digest, kind)
    VALUES (OLD.id, OLD.token_digest, OLD.previous_digest, 'deleted');
END;
