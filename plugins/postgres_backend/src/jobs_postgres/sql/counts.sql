-- How many jobs were ever pushed, and how many pushes added nothing, by topic.
--
-- Whatever pushes inserts a row, so that pushes, and transactions of applications that stay open, never wait for one another; the
-- housekeeper adds the rows up. A connection that pushes job by job adds several jobs with one row: see counting.py.

CREATE TABLE IF NOT EXISTS {s}.pushed (              -- not added up yet
    topic   text COLLATE "C" NOT NULL,
    jobs    bigint           NOT NULL,
    refused bigint           NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE IF NOT EXISTS {s}.pushed_before (
    topic   text COLLATE "C" PRIMARY KEY,
    jobs    bigint NOT NULL,
    refused bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, fillfactor = 50);

-- Count messages, those among the conflicts as refused.
CREATE OR REPLACE FUNCTION {s}.count_messages(messages jsonb, conflicts jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.pushed
        SELECT m ->> 't', count(*) FILTER (WHERE NOT conflicts ? (m ->> 'i')), count(*) FILTER (WHERE conflicts ? (m ->> 'i'))
          FROM jsonb_array_elements(messages) AS m GROUP BY 1;
END $$;

-- Count jobs that a connection pushed and did not count: an object of numbers by topic.
CREATE OR REPLACE FUNCTION {s}.count_pushed(jobs jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO {s}.pushed SELECT key, value::bigint, 0 FROM jsonb_each_text(jobs);
END $$;

-- Add up to `most` rows up; return whether there may be more. Above 10,000 topics, all counts begin anew: topics that are named
-- after customers must not fill the store.
CREATE OR REPLACE FUNCTION {s}.keep_counts(most integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    n integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true); -- lost in a crash of the server, the rows are as before
    WITH gone AS (
        DELETE FROM {s}.pushed WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.pushed LIMIT most FOR UPDATE SKIP LOCKED)) RETURNING *),
    added AS (
        INSERT INTO {s}.pushed_before AS b SELECT topic, sum(jobs), sum(refused) FROM gone GROUP BY topic ORDER BY topic
            ON CONFLICT (topic) DO UPDATE SET jobs = b.jobs + excluded.jobs, refused = b.refused + excluded.refused)
    SELECT count(*) INTO n FROM gone;
    IF n > 0 AND EXISTS (SELECT FROM {s}.pushed_before OFFSET 10000) THEN
        DELETE FROM {s}.pushed_before;
    END IF;
    RETURN n = most;
END $$;
