-- Enqueue inside a transaction of the application, on its own connection. Its role needs USAGE of the schema and EXECUTE of
-- `enqueue` alone, and for flows of `begin_flow` and `end_flow`: they run with the rights of the owner of the tables, and find names in no schema
-- that others can write to.

CREATE TABLE IF NOT EXISTS {s}.wake_at_commit ( -- topics for which callers' transactions, which have not ended, enqueued jobs
    xid   xid8             NOT NULL,
    topic text COLLATE "C" NOT NULL,
    jobs  integer          NOT NULL,
    PRIMARY KEY (xid, topic)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- Names this database among all of all servers; a standby, and a proxy, have the name of what they stand for.
CREATE OR REPLACE FUNCTION {s}.place() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws('/', system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()))
      FROM pg_control_system()
$$;

-- Store messages as `push` does, in the transaction of the caller. Returns {"conflicts": …}, or {"refused": why}: "place" if
-- this is not the database that the caller is configured for, "read-only" if the transaction is, "busy" if another transaction that
-- has not ended holds a unique key or id for longer than `patience` seconds. Nothing is stored then, and the transaction goes on.
CREATE OR REPLACE FUNCTION {s}.enqueue(
    version integer, place_ text, messages jsonb, payloads bytea[], plain boolean, lined boolean,
    cancelled_ttl double precision, patience double precision, wakes boolean)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    conflicts jsonb;
    before text;
BEGIN
    IF version <> 1 THEN
        RAISE EXCEPTION 'enqueue: version % is unknown here: run `jobsctl setup` with the newest jobs-postgres', version;
    END IF;
    IF place_ <> {s}.place() THEN
        RETURN '{"refused": "place"}';
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN '{"refused": "read-only"}';
    END IF;
    IF plain THEN -- waits for nobody, so it needs no savepoint
        conflicts := {s}.push(NULL, messages, payloads, true, lined, false, cancelled_ttl);
    ELSE
        before := current_setting('lock_timeout');
        BEGIN
            PERFORM set_config('lock_timeout', greatest(1, patience * 1000)::integer::text, true);
            conflicts := {s}.push(NULL, messages, payloads, false, lined, false, cancelled_ttl);
        EXCEPTION WHEN lock_not_available THEN
            RETURN '{"refused": "busy"}'; -- the setting is as before, too
        END;
        PERFORM set_config('lock_timeout', before, true);
    END IF;
    IF wakes THEN
        PERFORM {s}.wake_later(ARRAY(SELECT value ->> 't' FROM jsonb_array_elements(messages)));
    END IF;
    RETURN jsonb_build_object('conflicts', conflicts);
END $$;

-- Begin to store a part of a flow in the transaction of the caller. Returns what `begin_part` returns, or {"refused": why}.
CREATE OR REPLACE FUNCTION {s}.begin_flow(
    version integer, place_ text, request_ text, id_ text, number integer, messages jsonb, ids text[], labels text[],
    patience double precision)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    begun jsonb;
    before text := current_setting('lock_timeout');
BEGIN
    IF version <> 1 THEN
        RAISE EXCEPTION 'begin_flow: version % is unknown here: run `jobsctl setup` with the newest jobs-postgres', version;
    END IF;
    IF place_ <> {s}.place() THEN
        RETURN '{"refused": "place"}';
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN '{"refused": "read-only"}';
    END IF;
    BEGIN
        PERFORM set_config('lock_timeout', greatest(1, patience * 1000)::integer::text, true);
        begun := {s}.begin_part(request_, id_, number, messages, ids, labels);
    EXCEPTION WHEN lock_not_available THEN
        RETURN '{"refused": "busy"}'; -- the setting is as before, too
    END;
    PERFORM set_config('lock_timeout', before, true);
    RETURN begun;
END $$;

-- Store the part that `begin_flow` has begun. Returns {}.
CREATE OR REPLACE FUNCTION {s}.end_flow(
    version integer, place_ text, flow_ bigint, new_ bigint[], part jsonb, keyed jsonb, members jsonb, payloads bytea[],
    groups jsonb, edges jsonb, takers jsonb, at_once bigint[], ttl double precision, wakes boolean)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    woken text[];
BEGIN
    IF version <> 1 THEN
        RAISE EXCEPTION 'end_flow: version % is unknown here: run `jobsctl setup` with the newest jobs-postgres', version;
    END IF;
    IF place_ <> {s}.place() THEN
        RETURN '{"refused": "place"}';
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN '{"refused": "read-only"}';
    END IF;
    woken := {s}.end_part(flow_, new_, part, keyed, members, payloads, groups, edges, takers, at_once, ttl);
    IF wakes THEN
        PERFORM {s}.wake_later(woken);
    END IF;
    RETURN '{}';
END $$;

-- Have workers woken when this transaction commits, one for each of these topics of jobs.
CREATE OR REPLACE FUNCTION {s}.wake_later(topics text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.wake_at_commit AS w (xid, topic, jobs)
        SELECT pg_current_xact_id(), topic, count(*) FROM unnest(topics) AS topic GROUP BY 2
        ON CONFLICT (xid, topic) DO UPDATE SET jobs = w.jobs + excluded.jobs;
END $$;

-- Wake workers when the transaction commits, once for each topic. A worker that falls asleep between this and the end of the
-- commit looks again soon, as after a push.
CREATE OR REPLACE FUNCTION {s}.at_commit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs_ integer;
BEGIN
    DELETE FROM {s}.wake_at_commit WHERE xid = NEW.xid AND topic = NEW.topic RETURNING jobs INTO jobs_;
    PERFORM {s}.wake(ARRAY[NEW.topic], jobs_);
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS at_commit ON {s}.wake_at_commit;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON {s}.wake_at_commit
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {s}.at_commit();
