-- "Remember me": the session's cookie outlives the browser. Of no account for whether a session is valid.
ALTER TABLE sessions ADD COLUMN persistent boolean NOT NULL DEFAULT false;
