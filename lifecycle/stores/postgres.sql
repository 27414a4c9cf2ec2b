-- The tables of lifecycle in PostgreSQL, all in a schema of their own. `lifecycle store init` runs this.
--
-- Rule: the database itself holds what the log promises. Its triggers and indexes refuse a gap, a repeat, a second end
-- of one attachment, a change and a deletion, whoever writes. No lock is held that two writers could both want.
--
-- Each role has what it needs and no more. Writers add to the log and to the register and can take nothing out of
-- either; what they may change is the ledger of sessions. Pruners take out what has an entry in the register that says
-- so. Readers read.

CREATE SCHEMA lifecycle;
SET LOCAL search_path = lifecycle, pg_temp;

CREATE TABLE about (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,   -- of these tables
    oldest integer NOT NULL     -- the oldest version of them that a program may know and still work with them
);

-- What most records have in common comes in few combinations; one index holds the records of each in their order.
CREATE TABLE record_classes (
    class integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    event text NOT NULL,
    state text NOT NULL,
    cause text NOT NULL,
    adapter text NOT NULL,
    errors text[] NOT NULL,
    pace smallint NOT NULL,
    UNIQUE (kind, event, state, cause, adapter, errors, pace)
);

CREATE SEQUENCE record_ids;

CREATE TABLE records (
    id bigint NOT NULL,
    writer_seq bigint NOT NULL,
    attachment_seq bigint NOT NULL,
    at timestamptz NOT NULL,         -- by the clock of the host, as it is in the record
    stored_at timestamptz NOT NULL,  -- by the clock of this database
    slowest double precision NOT NULL,
    class integer NOT NULL,
    terminal boolean NOT NULL,
    writer text COLLATE "C" NOT NULL,
    attachment_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C",
    kind text NOT NULL,
    event text NOT NULL,
    source text NOT NULL,
    dest text NOT NULL,
    labels text[] COLLATE "C",       -- each a JSON list of its key and its value
    hash bytea,
    body bytea NOT NULL,             -- the very bytes that were hashed
    PRIMARY KEY (id),
    UNIQUE (writer, writer_seq),
    UNIQUE (attachment_id, attachment_seq)
);
CREATE UNIQUE INDEX one_end_of_an_attachment ON records (attachment_id) WHERE terminal;
CREATE INDEX records_of_session ON records (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX records_of_class ON records (class, id);
CREATE INDEX records_with_label ON records USING gin (labels);

-- Times of records, which are nearly in the order of their numbers, for each block of 1024 numbers and each writer: no
-- two writers change one row of it. By these a span of time is one of numbers.
CREATE TABLE record_blocks (
    block bigint NOT NULL,
    writer text COLLATE "C" NOT NULL,
    earliest timestamptz NOT NULL,
    latest timestamptz NOT NULL,
    PRIMARY KEY (block, writer)
) WITH (fillfactor = 50);

CREATE TABLE register (
    seq bigint PRIMARY KEY,
    writer text COLLATE "C",
    hash bytea NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX register_of_writer ON register (writer, seq);

-- Where the sequences of writers and attachments go on of which no record is left.
CREATE TABLE pruned (
    what text NOT NULL,
    id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (what, id)
);

CREATE TABLE sessions (
    session_id text COLLATE "C" PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY,
    attachment_id text NOT NULL,
    adapter text NOT NULL,
    state text NOT NULL,
    released boolean NOT NULL,
    name text,
    labels text NOT NULL,
    label_set text[] COLLATE "C",
    created_at timestamptz NOT NULL,
    closed_at timestamptz,
    last_accessed_at timestamptz NOT NULL,
    held_until timestamptz,
    timeout_minutes double precision NOT NULL,
    max_duration_minutes double precision NOT NULL,
    close_reason text,
    error text,
    owner_pid bigint NOT NULL,
    owner_started text NOT NULL,
    boot_id text NOT NULL,
    host text NOT NULL,
    control text,
    facts text NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX sessions_by_age ON sessions (created_at, number);
CREATE INDEX sessions_by_state ON sessions (state, created_at, number);
CREATE INDEX sessions_unfinished ON sessions (created_at, number)
    WHERE state IN ('not_started', 'active') OR (state = 'error' AND NOT released);
CREATE INDEX sessions_with_label ON sessions USING gin (label_set);

CREATE TABLE claims (
    adapter text NOT NULL,
    key text NOT NULL,
    attachment_id text NOT NULL,
    session_id text,
    owner_pid bigint NOT NULL,
    owner_started text NOT NULL,
    boot_id text NOT NULL,
    host text NOT NULL,
    PRIMARY KEY (adapter, key)
);

CREATE TABLE writers (
    writer text COLLATE "C" PRIMARY KEY,
    owner_pid bigint NOT NULL,
    owner_started text NOT NULL,
    boot_id text NOT NULL,
    host text NOT NULL,
    renewed_at timestamptz NOT NULL,  -- by the clock of the host
    seen_at timestamptz NOT NULL      -- by the clock of this database
);

CREATE TABLE open_attachments (attachment_id text COLLATE "C" PRIMARY KEY, writer text COLLATE "C" NOT NULL);

-- While a transaction adds records, it holds a lock that carries the number of its process, which nobody else takes
-- for writing. Who reads records by their number waits for those who hold one: see settled(). It is taken before the
-- record gets its number.
--
-- The last of a sequence is asked for by ORDER BY and LIMIT: a plan for max() that is made while the table is empty goes
-- through all records of the writer, and is kept.
CREATE FUNCTION add_in_order() RETURNS trigger LANGUAGE plpgsql
    SET search_path = lifecycle, pg_temp SET enable_seqscan = off AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1818846821, pg_backend_pid());
    IF NEW.writer_seq IS DISTINCT FROM 1 + coalesce(
        (SELECT writer_seq FROM records WHERE writer = NEW.writer ORDER BY writer_seq DESC LIMIT 1),
        (SELECT seq FROM pruned WHERE what = 'writer' AND id = NEW.writer), 0)
    THEN
        RAISE EXCEPTION 'a gap or a repeat in the writer''s sequence'
            USING ERRCODE = 'LC001', DETAIL = format('%s %s', NEW.writer_seq, NEW.writer);
    END IF;
    IF NEW.attachment_seq IS DISTINCT FROM 1 + coalesce(
        (SELECT attachment_seq FROM records WHERE attachment_id = NEW.attachment_id
            ORDER BY attachment_seq DESC LIMIT 1),
        (SELECT seq FROM pruned WHERE what = 'attachment' AND id = NEW.attachment_id), 0)
    THEN
        RAISE EXCEPTION 'a gap or a repeat in the attachment''s sequence'
            USING ERRCODE = 'LC001', DETAIL = format('%s %s', NEW.writer_seq, NEW.writer);
    END IF;
    IF NEW.terminal AND EXISTS (SELECT FROM records WHERE attachment_id = NEW.attachment_id AND terminal) THEN
        RAISE EXCEPTION 'the attachment has ended already'
            USING ERRCODE = 'LC001', DETAIL = format('%s %s', NEW.writer_seq, NEW.writer);
    END IF;
    NEW.id := nextval('record_ids');
    NEW.stored_at := clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER records_in_order BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION add_in_order();

CREATE FUNCTION follow_attachment() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = lifecycle, pg_temp AS $$
BEGIN
    IF NEW.terminal THEN
        DELETE FROM open_attachments WHERE attachment_id = NEW.attachment_id;
    ELSE
        INSERT INTO open_attachments VALUES (NEW.attachment_id, NEW.writer) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER records_follow_attachment AFTER INSERT ON records FOR EACH ROW
    WHEN (NEW.terminal OR (NEW.kind = 'intent' AND NEW.event IN ('start', 'attach')))
    EXECUTE FUNCTION follow_attachment();

CREATE FUNCTION follow_times() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = lifecycle, pg_temp AS $$
BEGIN
    INSERT INTO record_blocks AS b SELECT id / 1024, writer, min(at), max(at) FROM added GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (block, writer) DO UPDATE
        SET earliest = least(b.earliest, excluded.earliest), latest = greatest(b.latest, excluded.latest);
    RETURN NULL;
END $$;
CREATE TRIGGER records_follow_times AFTER INSERT ON records REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION follow_times();

CREATE FUNCTION enter_in_order() RETURNS trigger LANGUAGE plpgsql
    SET search_path = lifecycle, pg_temp SET enable_seqscan = off AS $$
BEGIN
    IF NEW.seq IS DISTINCT FROM 1 + coalesce((SELECT seq FROM register ORDER BY seq DESC LIMIT 1), 0) THEN
        RAISE EXCEPTION 'a gap or a repeat in the register' USING ERRCODE = 'LC001';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER register_in_order BEFORE INSERT ON register FOR EACH ROW EXECUTE FUNCTION enter_in_order();

CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: nothing in it is ever changed or taken out', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'LC001';
END $$;
CREATE TRIGGER records_never_change BEFORE UPDATE ON records FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER records_are_never_emptied BEFORE TRUNCATE ON records FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER register_never_changes BEFORE UPDATE ON register FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER register_never_goes BEFORE DELETE ON register FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER register_is_never_emptied BEFORE TRUNCATE ON register FOR EACH STATEMENT EXECUTE FUNCTION never();

-- A record goes only in a transaction that says up to where its writer is pruned.
CREATE FUNCTION go_only_as_pruned() RETURNS trigger LANGUAGE plpgsql SET search_path = lifecycle, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pruned WHERE what = 'writer' AND id = OLD.writer AND seq >= OLD.writer_seq) THEN
        RAISE EXCEPTION 'a record goes only as its writer is pruned' USING ERRCODE = 'LC001';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER records_go_only_as_pruned BEFORE DELETE ON records FOR EACH ROW EXECUTE FUNCTION go_only_as_pruned();

-- The highest number of a record such that every record up to it is there or will never be. Waits for those who are
-- adding records at this moment, and holds nobody up: the lock is let go of at once, with the block that took it. On a
-- replica these locks are not seen, and a record may show before one with a lower number.
CREATE FUNCTION settled() RETURNS bigint LANGUAGE plpgsql SET search_path = lifecycle, pg_temp AS $$
DECLARE
    last bigint;
    other integer;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'a replica can''t tell which records are still to come' USING ERRCODE = 'LC003';
    END IF;
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO last FROM record_ids;
    FOR other IN
        SELECT objid::bigint FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 1818846821 AND objsubid = 2 AND granted AND mode = 'ExclusiveLock'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    LOOP
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(1818846821, other);
            RAISE EXCEPTION 'it has ended' USING ERRCODE = 'LC002';
        EXCEPTION WHEN SQLSTATE 'LC002' THEN NULL;
        END;
    END LOOP;
    RETURN last;
END $$;
