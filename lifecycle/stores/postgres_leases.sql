-- Leases: what makes tables of version 1 into those of version 2. `lifecycle store init` runs it after the first.
--
-- Rule: a lease is counted by the clock of this database alone. A writer holds one from each time that it is seen, for
-- as long as it asked for; whoever finds it over may fence the writer, and of a fenced writer nothing is taken any more.

ALTER TABLE sessions
    ADD COLUMN writer text COLLATE "C",           -- under whose lease it is held
    ADD COLUMN address text;
ALTER TABLE claims
    ADD COLUMN writer text COLLATE "C";
ALTER TABLE writers
    ADD COLUMN lease_seconds double precision,    -- how long it lives after seen_at; none where it took no lease
    ADD COLUMN fenced_at timestamptz;             -- when another took over what it held

-- A writer whose lease has ended, and was taken by another, adds nothing and changes nothing any more: each writer is one
-- epoch of its process, which goes on as another writer. Whoever takes a lease waits afterwards, with settled(), for what
-- had begun before it: so this looks only once the lock is held.
--
-- Tables are named with their schema here: settings of a function's own are made and undone at each call of it.
CREATE FUNCTION refuse_stale_records() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added AS a JOIN lifecycle.writers AS w ON w.writer = a.writer WHERE w.fenced_at IS NOT NULL)
    THEN
        RAISE EXCEPTION 'the lease of its writer has ended and was taken' USING ERRCODE = 'LC004';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER records_of_the_stale AFTER INSERT ON records REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_stale_records();

CREATE FUNCTION refuse_stale_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1818846821, pg_backend_pid());
    IF EXISTS (SELECT FROM lifecycle.writers WHERE writer = NEW.writer AND fenced_at IS NOT NULL) THEN
        RAISE EXCEPTION 'the lease of writer % has ended and was taken', NEW.writer USING ERRCODE = 'LC004';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER sessions_of_the_stale BEFORE INSERT OR UPDATE ON sessions FOR EACH ROW WHEN (NEW.writer IS NOT NULL)
    EXECUTE FUNCTION refuse_stale_row();
CREATE TRIGGER claims_of_the_stale BEFORE INSERT OR UPDATE ON claims FOR EACH ROW WHEN (NEW.writer IS NOT NULL)
    EXECUTE FUNCTION refuse_stale_row();

CREATE FUNCTION stay_fenced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the lease of writer % has ended and was taken', OLD.writer USING ERRCODE = 'LC004';
END $$;
CREATE TRIGGER writers_stay_fenced BEFORE UPDATE ON writers FOR EACH ROW WHEN (OLD.fenced_at IS NOT NULL)
    EXECUTE FUNCTION stay_fenced();
