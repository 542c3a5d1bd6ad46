-- An outbox in a database of the application: jobs of its transactions, until they are carried to a queue elsewhere. Every line
-- may be executed again. The role of the application needs USAGE of the schema and EXECUTE of `put_out` (for flows, of
-- `put_out_flow`) alone.

CREATE SCHEMA IF NOT EXISTS {s};

CREATE TABLE IF NOT EXISTS {s}.outbox (
    seq     bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id      text COLLATE "C" NOT NULL,
    topic   text             NOT NULL,
    at      double precision NOT NULL, -- when it was inserted, as Unix seconds of this server
    load    text COLLATE "C",          -- the request id under which it is being carried
    tries   integer          NOT NULL DEFAULT 0,
    try_at  double precision,          -- when a refused job is tried again
    reason  text,
    message bytea            NOT NULL, -- of a flow, the next of its parts
    members integer                    -- of a flow: how many are not carried yet
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
DO $$ BEGIN -- an outbox of before there were flows in it; the statement would lock the table even if it does nothing
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '{s}.outbox'::regclass AND attname = 'members') THEN
        ALTER TABLE {s}.outbox ADD COLUMN members integer;
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS outbox_id ON {s}.outbox (id);
CREATE INDEX IF NOT EXISTS outbox_new ON {s}.outbox (seq) WHERE load IS NULL AND try_at IS NULL;
CREATE INDEX IF NOT EXISTS outbox_load ON {s}.outbox (load) WHERE load IS NOT NULL;
CREATE INDEX IF NOT EXISTS outbox_refused ON {s}.outbox (try_at) WHERE try_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS {s}.outbox_part ( -- of a flow, those after the next one
    flow    text COLLATE "C" NOT NULL,
    number  integer          NOT NULL,
    message bytea            NOT NULL,
    PRIMARY KEY (flow, number)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE IF NOT EXISTS {s}.outbox_member ( -- the parts in which the members of flows are
    flow   text COLLATE "C" NOT NULL,
    number integer          NOT NULL,
    id     text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX IF NOT EXISTS outbox_member_part ON {s}.outbox_member (flow, number);
CREATE INDEX IF NOT EXISTS outbox_member_id ON {s}.outbox_member (id);

CREATE TABLE IF NOT EXISTS {s}.outbox_call (xid xid8 PRIMARY KEY) -- transactions, which have not ended, that inserted jobs
    WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE IF NOT EXISTS {s}.outbox_sleeper (channel text PRIMARY KEY); -- the carrier, while it sleeps
CREATE TABLE IF NOT EXISTS {s}.outbox_lease (            -- of a carrier that has no session, since a proxy pools transactions
    one    boolean          PRIMARY KEY DEFAULT true CHECK (one),
    holder text             NOT NULL,
    until  double precision NOT NULL
);

CREATE OR REPLACE FUNCTION {s}.outbox_now() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::double precision $$;

CREATE OR REPLACE FUNCTION {s}.outbox_place() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws('/', system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()))
      FROM pg_control_system()
$$;

-- Insert jobs in the transaction of the caller. Returns {"conflicts": {}}, or {"refused": why} with nothing inserted:
-- "place" if this is not the database that the caller is configured for, "read-only" if the transaction is.
CREATE OR REPLACE FUNCTION {s}.put_out(
    version integer, place_ text, ids text[], topics text[], messages bytea[], wakes boolean)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF version <> 1 THEN
        RAISE EXCEPTION 'put_out: version % is unknown here: run `jobsctl outbox setup` with the newest jobs-postgres', version;
    END IF;
    IF place_ <> {s}.outbox_place() THEN
        RETURN '{"refused": "place"}';
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN '{"refused": "read-only"}';
    END IF;
    INSERT INTO {s}.outbox (id, topic, at, message)
        SELECT i, t, {s}.outbox_now(), m FROM unnest(ids, topics, messages) WITH ORDINALITY AS new (i, t, m, n) ORDER BY n;
    IF wakes THEN
        INSERT INTO {s}.outbox_call VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
    END IF;
    RETURN '{"conflicts": {}}';
END $$;

-- Insert a part of a flow in the transaction of the caller, the parts in the order of their numbers. Returns what `put_out` returns.
CREATE OR REPLACE FUNCTION {s}.put_out_flow(
    version integer, place_ text, flow_ text, number_ integer, name text, message_ bytea, ids text[], wakes boolean)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF version <> 1 THEN
        RAISE EXCEPTION
            'put_out_flow: version % is unknown here: run `jobsctl outbox setup` with the newest jobs-postgres', version;
    END IF;
    IF place_ <> {s}.outbox_place() THEN
        RETURN '{"refused": "place"}';
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN '{"refused": "read-only"}';
    END IF;
    IF number_ = 0 THEN
        INSERT INTO {s}.outbox (id, topic, at, message, members)
            VALUES (flow_, name, {s}.outbox_now(), message_, cardinality(ids));
    ELSE
        INSERT INTO {s}.outbox_part VALUES (flow_, number_, message_);
        UPDATE {s}.outbox SET members = members + cardinality(ids) WHERE id = flow_;
    END IF;
    INSERT INTO {s}.outbox_member SELECT flow_, number_, i FROM unnest(ids) AS i;
    IF wakes THEN
        INSERT INTO {s}.outbox_call VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
    END IF;
    RETURN '{"conflicts": {}}';
END $$;

-- What is known of a job or flow, or of the flow of a member. Any role with USAGE of the schema may ask: ids cannot be guessed.
CREATE OR REPLACE FUNCTION {s}.outbox_find(id_ text)
RETURNS TABLE (id text, topic text, age double precision, tries integer, next_try double precision, reason text, members integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.id, o.topic, {s}.outbox_now() - o.at, o.tries, o.try_at - {s}.outbox_now(), o.reason, o.members
      FROM {s}.outbox AS o
     WHERE o.id = coalesce((SELECT m.flow FROM {s}.outbox_member AS m WHERE m.id = id_ LIMIT 1), id_) LIMIT 1
$$;

-- Delete a job, or a flow of which no part was carried, unless it is being carried. Returns whether it was there.
CREATE OR REPLACE FUNCTION {s}.outbox_withdraw(id_ text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    flow_ boolean;
BEGIN
    DELETE FROM {s}.outbox AS o
     WHERE o.id = id_ AND o.load IS NULL
       AND (o.members IS NULL OR o.members = 0 OR EXISTS (SELECT FROM {s}.outbox_member WHERE flow = id_ AND number = 0))
    RETURNING o.members IS NOT NULL INTO flow_;
    IF flow_ THEN
        DELETE FROM {s}.outbox_part WHERE flow = id_;
        DELETE FROM {s}.outbox_member WHERE flow = id_;
    END IF;
    RETURN flow_ IS NOT NULL;
END $$;

-- Wake the carrier when the transaction commits. One that falls asleep between this and the end of the commit looks again after
-- a second.
CREATE OR REPLACE FUNCTION {s}.outbox_at_commit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM {s}.outbox_call WHERE xid = NEW.xid;
    PERFORM pg_notify(channel, 'outbox') FROM {s}.outbox_sleeper;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS outbox_at_commit ON {s}.outbox_call;
CREATE CONSTRAINT TRIGGER outbox_at_commit AFTER INSERT ON {s}.outbox_call
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {s}.outbox_at_commit();
