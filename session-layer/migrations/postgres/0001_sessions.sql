-- Sessions, the users they belong to, the journal of changes, and the nodes that serve entries.
--
-- `@schema@` is the quoted name of our schema. Every function runs with `search_path = pg_catalog, pg_temp` and names our
-- tables in full. An operator or function that another role created in a schema can therefore not replace one of Postgres'.
-- Needs Postgres 13 (xid8, pg_snapshot). ASCII only: a database may have any encoding.

CREATE TABLE @schema@.sessions (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- SHA-256 of the token's text: sha256(convert_to(token, 'UTF8'))
    token_digest     bytea NOT NULL UNIQUE CHECK (octet_length(token_digest) = 32),
    -- The digest before the last rotation. It is valid until previous_until.
    previous_digest  bytea CHECK (octet_length(previous_digest) = 32),
    previous_until   timestamptz,
    -- The digests before the previous one, newest first, at most 16. A change of the session removes their copies too.
    former_digests   bytea[] NOT NULL DEFAULT '{}',
    -- An id has no language. "C" compares its bytes, which is faster, and an update of the system's locales breaks no index.
    user_id          text COLLATE "C" NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 200),
    -- The user's epoch at the login. A session of an earlier epoch has ended, whatever its other columns are.
    user_epoch       bigint NOT NULL DEFAULT 0,
    -- json keeps the text byte for byte. jsonb would rewrite numbers, and can make 3 KB into 39 MB.
    data             json NOT NULL DEFAULT '{}',
    -- A trigger raises it with every change except last_seen_at moving forward.
    version          bigint NOT NULL DEFAULT 1,
    label            text,
    ip               inet,
    user_agent       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    authenticated_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at     timestamptz NOT NULL DEFAULT now(),
    idle_timeout_s   integer CHECK (idle_timeout_s > 0),
    expires_at       timestamptz NOT NULL,
    -- "Remember me": the cookie outlives the browser. Validity does not depend on it.
    persistent       boolean NOT NULL DEFAULT false,
    -- Set: the session has ended. An operator may set it.
    revoked_at       timestamptz,
    -- Who ended the session, and why, for operators. No promise depends on them.
    ended_by         text,
    ended_reason     text
) WITH (fillfactor = 85); -- room for a touch to stay on its page (HOT)

-- Few sessions have a previous digest, so every read finds in a small index that there is none.
CREATE UNIQUE INDEX sessions_previous_digest ON @schema@.sessions (previous_digest) WHERE previous_digest IS NOT NULL;
CREATE INDEX sessions_user_id ON @schema@.sessions (user_id, created_at DESC, id DESC);
-- The highest epoch of a user's sessions: a raise goes above it.
CREATE INDEX sessions_user_epoch ON @schema@.sessions (user_id, user_epoch);
CREATE INDEX sessions_expires_at ON @schema@.sessions (expires_at);
CREATE INDEX sessions_revoked_at ON @schema@.sessions (revoked_at) WHERE revoked_at IS NOT NULL;

-- One row per user who ever logged in. Revoking all of a user's sessions raises the epoch. A login locks the row FOR
-- SHARE, so it either is seen by the revocation or sees it.
CREATE TABLE @schema@.session_users (
    user_id    text COLLATE "C" PRIMARY KEY CHECK (char_length(user_id) BETWEEN 1 AND 200),
    epoch      bigint NOT NULL DEFAULT 0,
    -- Which transaction raised the epoch last, when, and in which run of the server (its start). A trigger keeps them.
    raised_by  xid8,
    raised_at  timestamptz,
    raised_in  timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The life of this database: one run of one server. Within a life no transaction id is used twice, and all statements
-- see one history. So cached entries and positions in the journal are each of one life.
--
-- Crash recovery and promotion empty an UNLOGGED table. Another run of the server has another start time, a copy by
-- CREATE DATABASE ... TEMPLATE another database oid, a copy in another schema another relation oid. A row that says
-- otherwise came here with a copy, and counts as none.
CREATE UNLOGGED TABLE @schema@.session_life (
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    started       timestamptz NOT NULL,
    database      oid NOT NULL,
    relation      oid NOT NULL,
    -- The life's journal is the rows of transactions that this snapshot does not show: of those that were running, which
    -- may have been prepared in an earlier run, and of all later ones.
    begun         pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    -- The journal holds nothing older than this transaction any more.
    journal_floor xid8 NOT NULL DEFAULT '0',
    -- A prepared transaction may hold the row of an earlier run locked, so a life never waits for another one's row.
    PRIMARY KEY (started, database, relation)
);

-- Returns the present life, or NULLs if none has begun. A replica has none: it cannot read an UNLOGGED table.
CREATE FUNCTION @schema@.this_life(OUT id uuid, OUT begun pg_snapshot, OUT journal_floor xid8)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN;
    END IF;
    SELECT l.id, l.begun, l.journal_floor INTO id, begun, journal_floor
      FROM @schema@.session_life l
     WHERE l.started = pg_postmaster_start_time()
       AND l.relation = l.tableoid
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END $$;

-- Returns the present life, and begins one if none has begun. Only a node's own short transactions call it: while one is
-- open, the next caller waits for it.
CREATE FUNCTION @schema@.begin_life() RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here uuid := (SELECT l.id FROM @schema@.this_life() l);
BEGIN
    IF here IS NOT NULL THEN
        RETURN here;
    END IF;
    INSERT INTO @schema@.session_life (started, database, relation)
    SELECT pg_postmaster_start_time(), d.oid, '@schema@.session_life'::regclass
      FROM pg_database d WHERE d.datname = current_database()
    ON CONFLICT DO NOTHING;
    here := (SELECT l.id FROM @schema@.this_life() l);
    DELETE FROM @schema@.session_life d WHERE d.id IN (
        SELECT l.id FROM @schema@.session_life l WHERE l.id <> here FOR UPDATE SKIP LOCKED);
    RETURN here;
END $$;

-- Changes. Every node reads what is new twice a second, removes the cached copies of sessions that ended, and serves no
-- older copy of those that changed.
CREATE TABLE @schema@.session_journal (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- `truncated`: every session that existed before this transaction. `user`: every session of user_id with an epoch
    -- below user_epoch. Else the session session_id.
    kind            text NOT NULL CHECK (kind IN ('updated', 'revoked', 'deleted', 'truncated', 'user')),
    session_id      uuid,
    -- The digests before the change.
    digest          bytea,
    previous_digest bytea,
    -- For `updated`: the least version that is still current.
    version         bigint,
    user_id         text,
    user_epoch      bigint,
    at              timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX session_journal_page ON @schema@.session_journal (xid, id);
CREATE INDEX session_journal_at ON @schema@.session_journal (at);

-- Returns the next rows of the journal after the row (after_xid, after_id), in the order (xid, id), at most `most`. They
-- are of transactions that have ended by now and that the snapshot `seen` does not show. NULL stands for the snapshot at
-- which this life began.
--
-- Transactions that are running now are left out by their ids. One of them may have written a million rows, and looking at
-- each of those would take a second.
--
-- Rows come in the order of the index. Left to itself, Postgres fetched and sorted all rows of a transaction for each page.
CREATE FUNCTION @schema@.journal_page(seen pg_snapshot, after_xid xid8, after_id bigint, most bigint)
    RETURNS SETOF @schema@.session_journal
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    running  pg_snapshot := pg_current_snapshot();
    span     record;
    returned bigint;
BEGIN
    IF seen IS NULL THEN
        seen := (SELECT l.begun FROM @schema@.this_life() l);
    END IF;
    -- Spans of ids, each from behind (from_xid, from_id) to before `before`: a transaction that was running then, or the ids
    -- between two that are running now.
    FOR span IN
        SELECT x AS from_xid, 0::bigint AS from_id, (x::text::bigint + 1::bigint)::text::xid8 AS before
          FROM pg_snapshot_xip(seen) x
         WHERE pg_visible_in_snapshot(x, running)
        UNION ALL
        SELECT lag(e.xid, 1, (pg_snapshot_xmax(seen)::text::bigint - 1::bigint)::text::xid8) OVER (ORDER BY e.xid),
               9223372036854775807, e.xid
          FROM (SELECT pg_snapshot_xip(running) UNION ALL SELECT pg_snapshot_xmax(running)) e(xid)
         WHERE e.xid >= pg_snapshot_xmax(seen)
         ORDER BY 1, 2
    LOOP
        CONTINUE WHEN span.before <= after_xid;
        IF (after_xid, after_id) > (span.from_xid, span.from_id) THEN
            span.from_xid := after_xid;
            span.from_id := after_id;
        END IF;
        RETURN QUERY
            SELECT j.* FROM @schema@.session_journal j
             WHERE (j.xid, j.id) > (span.from_xid, span.from_id) AND j.xid < span.before
             ORDER BY j.xid, j.id LIMIT most;
        GET DIAGNOSTICS returned = ROW_COUNT;
        most := most - returned;
        EXIT WHEN most <= 0;
    END LOOP;
END $$;

-- The cache from which each node serves entries, and until when it may serve them while it is partitioned from Postgres. A
-- node that changes its cache gets another row, so that a late statement cannot change the row of another cache.
CREATE TABLE @schema@.session_nodes (
    id    uuid PRIMARY KEY,
    cache bytea NOT NULL CHECK (octet_length(cache) = 32),
    until timestamptz NOT NULL
);

-- Raises the version with every change but a touch. *= compares the stored bytes, so that no operator's idea of
-- equality ('1.0' = '1.00') hides a change.
--
-- An epoch is one user's. A session that an operator gives to another user takes that user's epoch, and stays ended if
-- the epoch of the first one had ended it. SECURITY DEFINER: it reads epochs for a role that may have no right to.
CREATE FUNCTION @schema@.sessions_raise_version() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    untouched @schema@.sessions%ROWTYPE;
BEGIN
    IF NEW.user_id <> OLD.user_id THEN
        -- As a login does: a raise of either epoch is seen, or comes after this.
        PERFORM FROM @schema@.session_users u
          WHERE u.user_id IN (OLD.user_id, NEW.user_id) ORDER BY u.user_id FOR SHARE;
        IF NEW.revoked_at IS NULL AND EXISTS (
            SELECT FROM @schema@.session_users u WHERE u.user_id = OLD.user_id AND u.epoch > OLD.user_epoch) THEN
            NEW.revoked_at := now();
            NEW.ended_reason := 'ended before it was given to another user';
        END IF;
        NEW.user_epoch := coalesce(
            (SELECT u.epoch FROM @schema@.session_users u WHERE u.user_id = NEW.user_id), 0::bigint);
    END IF;
    untouched := NEW;
    IF NEW.last_seen_at >= OLD.last_seen_at THEN
        untouched.last_seen_at := OLD.last_seen_at;
    END IF;
    IF untouched *= OLD THEN
        RETURN NEW;
    END IF;
    NEW.version := OLD.version + 1::bigint;
    RETURN NEW;
END $$;

CREATE TRIGGER sessions_raise_version BEFORE UPDATE ON @schema@.sessions
    FOR EACH ROW EXECUTE FUNCTION @schema@.sessions_raise_version();

-- Writes the journal. SECURITY DEFINER: an UPDATE by a role that has rights on the sessions alone must not fail.
--
-- A session that its user's epoch has ended already needs no row, because the row `user` covers all of its entries. Ending
-- a million rows after a revoke-all therefore writes nothing here.
CREATE FUNCTION @schema@.sessions_write_journal() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO @schema@.session_journal (kind) VALUES ('truncated');
        RETURN NULL;
    END IF;
    IF (TG_OP = 'DELETE' OR NEW.user_epoch = OLD.user_epoch) AND EXISTS (
        SELECT FROM @schema@.session_users u WHERE u.user_id = OLD.user_id AND u.epoch > OLD.user_epoch) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO @schema@.session_journal (session_id, digest, previous_digest, kind)
        VALUES (OLD.id, OLD.token_digest, OLD.previous_digest, 'deleted');
    ELSE
        INSERT INTO @schema@.session_journal (session_id, digest, previous_digest, kind, version)
        VALUES (OLD.id, OLD.token_digest, OLD.previous_digest,
                CASE WHEN NEW.revoked_at IS NULL THEN 'updated' ELSE 'revoked' END,
                CASE WHEN NEW.revoked_at IS NULL THEN NEW.version END);
    END IF;
    RETURN NULL;
END $$;

-- A change is what raised the version.
CREATE TRIGGER sessions_journal_update AFTER UPDATE ON @schema@.sessions
    FOR EACH ROW WHEN (NEW.version <> OLD.version)
    EXECUTE FUNCTION @schema@.sessions_write_journal();

-- Purging what has ended must not flood the journal. now() is when the transaction began, so this errs towards writing.
CREATE TRIGGER sessions_journal_delete AFTER DELETE ON @schema@.sessions
    FOR EACH ROW WHEN (
        OLD.revoked_at IS NULL
        AND OLD.expires_at > now()
        AND (OLD.idle_timeout_s IS NULL
             OR OLD.last_seen_at > now() - OLD.idle_timeout_s * interval '1 second'))
    EXECUTE FUNCTION @schema@.sessions_write_journal();

CREATE TRIGGER sessions_journal_truncate AFTER TRUNCATE ON @schema@.sessions
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.sessions_write_journal();

-- Records who raised an epoch, also if an operator did it.
CREATE FUNCTION @schema@.session_users_note_raise() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.raised_by := pg_current_xact_id();
    NEW.raised_at := now();
    NEW.raised_in := pg_postmaster_start_time();
    RETURN NEW;
END $$;

CREATE TRIGGER session_users_note_first BEFORE INSERT ON @schema@.session_users
    FOR EACH ROW WHEN (NEW.epoch <> 0) EXECUTE FUNCTION @schema@.session_users_note_raise();

-- A row that gets another user's name raises the epoch of that user.
CREATE TRIGGER session_users_note_raise BEFORE UPDATE ON @schema@.session_users
    FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch OR NEW.user_id <> OLD.user_id) EXECUTE FUNCTION @schema@.session_users_note_raise();

-- One row ends all of a user's sessions of earlier epochs, however many there are.
CREATE FUNCTION @schema@.session_users_write_journal() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @schema@.session_journal (kind, user_id, user_epoch) VALUES ('user', NEW.user_id, NEW.epoch);
    RETURN NULL;
END $$;

CREATE TRIGGER session_users_journal_first AFTER INSERT ON @schema@.session_users
    FOR EACH ROW WHEN (NEW.epoch > 0) EXECUTE FUNCTION @schema@.session_users_write_journal();

CREATE TRIGGER session_users_journal_raise AFTER UPDATE ON @schema@.session_users
    FOR EACH ROW WHEN (NEW.epoch > OLD.epoch OR (NEW.user_id <> OLD.user_id AND NEW.epoch > 0))
    EXECUTE FUNCTION @schema@.session_users_write_journal();

-- An epoch that is lowered, or deleted with its row, would make the sessions valid again that it had ended. They are
-- marked as ended first. (A revoke-all has marked them by then, if its background work was not interrupted.)
CREATE FUNCTION @schema@.session_users_keep_ended() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE @schema@.sessions s SET revoked_at = now(), ended_reason = 'the epoch had been raised'
          FROM @schema@.session_users u
         WHERE s.user_id = u.user_id AND s.user_epoch < u.epoch AND s.revoked_at IS NULL;
        RETURN NULL;
    END IF;
    UPDATE @schema@.sessions s SET revoked_at = now(), ended_reason = 'the epoch had been raised'
     WHERE s.user_id = OLD.user_id AND s.user_epoch < OLD.epoch AND s.revoked_at IS NULL;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER session_users_keep_ended_lowered BEFORE UPDATE ON @schema@.session_users
    FOR EACH ROW WHEN (NEW.epoch < OLD.epoch OR NEW.user_id <> OLD.user_id)
    EXECUTE FUNCTION @schema@.session_users_keep_ended();
CREATE TRIGGER session_users_keep_ended_deleted BEFORE DELETE ON @schema@.session_users
    FOR EACH ROW WHEN (OLD.epoch > 0) EXECUTE FUNCTION @schema@.session_users_keep_ended();
CREATE TRIGGER session_users_keep_ended_truncated BEFORE TRUNCATE ON @schema@.session_users
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.session_users_keep_ended();

-- Raises the floor past rows that leave the journal, in the same transaction, also if an operator deletes them. A node
-- sees either both or neither, and serves no copy whose read may not have seen a transaction below the floor.
CREATE FUNCTION @schema@.session_journal_raise_floor() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here  record;
    -- Past our own transaction as well: the rows that are gone may be of it.
    above bigint := greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                             pg_current_xact_id()::text::bigint + 1::bigint);
    last  bigint;
BEGIN
    SELECT * INTO here FROM @schema@.this_life();
    -- Of rows that are our own transaction's no other trace is left, and a life may begin before we commit, which this
    -- floor says nothing about.
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO @schema@.session_journal (kind) VALUES ('truncated');
    ELSIF EXISTS (SELECT FROM gone g WHERE g.xid = pg_current_xact_id()) THEN
        INSERT INTO @schema@.session_journal (kind) VALUES ('truncated');
    END IF;
    -- TRUNCATE waits for every writer, so a snapshot of now is above all rows. An older one is not.
    IF TG_OP = 'TRUNCATE' AND current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the journal can be truncated in READ COMMITTED only'
            USING HINT = 'an older snapshot does not know which changes are lost with it';
    END IF;
    IF TG_OP = 'DELETE' THEN
        -- Only rows that a node of this life reads count, not those of before it, nor those of another server.
        last := (SELECT max(g.xid::text::bigint) + 1::bigint FROM gone g
                  WHERE g.xid >= pg_snapshot_xmin(here.begun) AND g.xid < above::text::xid8);
        IF last IS NULL THEN
            RETURN NULL;
        END IF;
        above := least(above, last);
    END IF;
    UPDATE @schema@.session_life l
       SET journal_floor = greatest(l.journal_floor, above::text::xid8)
     WHERE l.id = here.id;
    RETURN NULL;
END $$;

CREATE TRIGGER session_journal_delete AFTER DELETE ON @schema@.session_journal
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION @schema@.session_journal_raise_floor();
CREATE TRIGGER session_journal_truncate AFTER TRUNCATE ON @schema@.session_journal
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.session_journal_raise_floor();

-- The functions below have the owner's rights: a role that uses the sessions needs no right to write the journal or to
-- delete anything. The advisory locks keep nodes from doing the same work at once: the second one does nothing.

-- Removes rows older than `keep`, at most 50,000 at a time, and rows that no node reads: of transactions that were over
-- when this life began, and of those that no transaction of this server has been yet (they came with a dump).
--
-- Never past the oldest transaction still running: while it runs, every fresh read names it as its xmin, and a copy from
-- below the floor is not served.
CREATE FUNCTION @schema@.purge_journal(keep interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    oldest  xid8;
    -- No row of ours has such an id yet.
    beyond  xid8 := greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                             pg_current_xact_id()::text::bigint + 1::bigint)::text::xid8;
    removed bigint;
BEGIN
    -- Not by comparing intervals: a month counts as 30 days there, and as a month of the calendar below.
    IF keep IS NULL OR now() - keep > now() THEN
        RAISE EXCEPTION 'keep is %: it must not be negative', keep USING ERRCODE = '22023';
    END IF;
    IF NOT pg_try_advisory_xact_lock('@schema@.session_journal'::regclass::oid::bigint << 8 | 1::bigint) THEN
        RETURN 0;
    END IF;
    PERFORM @schema@.begin_life();
    oldest := (SELECT pg_snapshot_xmin(l.begun) FROM @schema@.this_life() l);
    DELETE FROM @schema@.session_journal j WHERE j.id IN (
        (SELECT o.id FROM @schema@.session_journal o WHERE o.xid < oldest LIMIT 50000)
        UNION ALL
        (SELECT o.id FROM @schema@.session_journal o WHERE o.xid >= beyond LIMIT 50000)
        UNION ALL
        (SELECT o.id FROM @schema@.session_journal o
          WHERE o.at < now() - keep AND o.xid < pg_snapshot_xmin(pg_current_snapshot())
          ORDER BY o.at LIMIT 50000)
        LIMIT 50000);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

-- Removes at most `most` sessions that ended or expired longer ago than `retention`. Locked rows are left for the next
-- time. The trigger writes no journal for them: they had ended.
CREATE FUNCTION @schema@.sweep_sessions(retention interval, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint;
BEGIN
    IF retention IS NULL OR now() - retention > now() OR most IS NULL OR most < 0 THEN
        RAISE EXCEPTION 'retention is % and most is %: neither may be negative', retention, most
            USING ERRCODE = '22023';
    END IF;
    IF NOT pg_try_advisory_xact_lock('@schema@.sessions'::regclass::oid::bigint << 8 | 2::bigint) THEN
        RETURN 0;
    END IF;
    DELETE FROM @schema@.sessions d WHERE d.id IN (
        SELECT s.id FROM @schema@.sessions s
         WHERE s.expires_at < now() - retention OR s.revoked_at < now() - retention
         LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

-- Deletes at most `most` of a user's sessions that have ended, whenever that was, newest first. It waits for
-- locked rows. The trigger writes no journal for them: they had ended. The user's row stays, with the epoch that ended them:
-- a login that began before it was raised would find no row, and be let in.
CREATE FUNCTION @schema@.erase_sessions(erased text, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint;
BEGIN
    IF most IS NULL OR most < 0 THEN
        RAISE EXCEPTION 'most is %: it may not be negative', most USING ERRCODE = '22023';
    END IF;
    DELETE FROM @schema@.sessions d WHERE d.id IN (
        SELECT s.id FROM @schema@.sessions s
         WHERE s.user_id = erased
           AND (s.revoked_at IS NOT NULL OR s.expires_at <= now() OR s.user_epoch < (
               SELECT u.epoch FROM @schema@.session_users u WHERE u.user_id = erased))
         ORDER BY s.created_at DESC, s.id DESC LIMIT most FOR UPDATE);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

-- Looks at the next `most` users after `after`, and removes those who have had no session for `retention`. Returns how many
-- that were, and the last user it looked at (NULL: there are no more).
--
-- A user whose epoch was raised in this run of the server stays, or by a transaction that was prepared in an earlier one: a
-- login that began before the raise would find no row, and be let in.
-- The row is locked first. A login that held it has its session committed by then, which the next statement sees.
CREATE FUNCTION @schema@.sweep_users(retention interval, after text, most integer, OUT removed bigint, OUT last text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    begun  pg_snapshot := (SELECT l.begun FROM @schema@.this_life() l);
    page   text[];
    locked text[];
BEGIN
    IF retention IS NULL OR now() - retention > now() OR most IS NULL OR most < 0 THEN
        RAISE EXCEPTION 'retention is % and most is %: neither may be negative', retention, most
            USING ERRCODE = '22023';
    END IF;
    removed := 0;
    SELECT array_agg(p.user_id ORDER BY p.user_id), max(p.user_id) INTO page, last
      FROM (SELECT u.user_id FROM @schema@.session_users u
             WHERE u.user_id > coalesce(after, '') ORDER BY u.user_id LIMIT most) p;
    IF begun IS NULL OR current_setting('transaction_isolation') <> 'read committed'
        OR NOT pg_try_advisory_xact_lock('@schema@.session_users'::regclass::oid::bigint << 8 | 3::bigint) THEN
        RETURN;
    END IF;
    SELECT array_agg(l.user_id) INTO locked FROM (
        SELECT u.user_id FROM @schema@.session_users u
         WHERE u.user_id = ANY (page)
           AND u.raised_in IS DISTINCT FROM pg_postmaster_start_time()
           AND (u.raised_by IS NULL OR u.raised_by NOT IN (SELECT pg_snapshot_xip(begun)))
           AND greatest(u.created_at, u.raised_at) < now() - retention
           AND NOT EXISTS (SELECT FROM @schema@.sessions s WHERE s.user_id = u.user_id)
           FOR UPDATE SKIP LOCKED) l;
    DELETE FROM @schema@.session_users u
     WHERE u.user_id = ANY (locked)
       AND NOT EXISTS (SELECT FROM @schema@.sessions s WHERE s.user_id = u.user_id);
    GET DIAGNOSTICS removed = ROW_COUNT;
END $$;

-- Records from which cache a node serves entries, for `lasts` from now on.
CREATE FUNCTION @schema@.register_node(registration uuid, cache bytea, lasts interval) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM @schema@.session_nodes d WHERE d.id IN (
        SELECT n.id FROM @schema@.session_nodes n WHERE n.until < now() FOR UPDATE SKIP LOCKED);
    INSERT INTO @schema@.session_nodes AS n (id, cache, until)
    -- A node requests its TTL (at most a day), D (at most four days) and about a minute.
    VALUES ($1, $2, clock_timestamp() + least($3, interval '7 days'))
    ON CONFLICT (id) DO UPDATE SET until = excluded.until;
$$;

-- Removes a registration, because its node no longer serves entries from that cache.
CREATE FUNCTION @schema@.forget_node(registration uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM @schema@.session_nodes n WHERE n.id = $1;
$$;

-- A trigger runs its function without this right. With it, anyone could hang these functions on a table of their own
-- and write our journal, or remove what others still need. `store::grants` lists what an application's role gets.
REVOKE EXECUTE ON FUNCTION
    @schema@.sessions_raise_version(), @schema@.sessions_write_journal(),
    @schema@.session_users_note_raise(), @schema@.session_users_write_journal(),
    @schema@.session_users_keep_ended(),
    @schema@.session_journal_raise_floor(), @schema@.begin_life(),
    @schema@.purge_journal(interval), @schema@.sweep_sessions(interval, integer),
    @schema@.erase_sessions(text, integer), @schema@.sweep_users(interval, text, integer),
    @schema@.register_node(uuid, bytea, interval), @schema@.forget_node(uuid) FROM PUBLIC;
