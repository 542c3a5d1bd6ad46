-- How many jobs topics have, by what they are: ready, due (scheduled, and due by now), later (scheduled), dead, waiting.
--
-- Up to 10,000 jobs of a topic and kind are counted when somebody asks. A greater number is what the housekeeping has counted last:
-- it counts again after 20 times as long as that took, and after two seconds at least. So nothing that jobs do pays for counts, and
-- who asks waits for milliseconds, however many jobs there are. If nobody keeps house, whoever asks counts every 30 seconds.
--
-- Small numbers are those of one moment: what counts them is STABLE, so that all of it sees the same rows.

CREATE TABLE IF NOT EXISTS {s}.size (
    topic text COLLATE "C" NOT NULL,
    kind  text COLLATE "C" NOT NULL,
    jobs  bigint           NOT NULL,
    at    double precision NOT NULL,
    took  double precision NOT NULL,
    PRIMARY KEY (topic, kind)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, fillfactor = 50);

-- Count up to `most` jobs; all of them if it is NULL.
CREATE OR REPLACE FUNCTION {s}.count_up_to(kind text, topic_ text, most integer, now_ double precision) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    n bigint;
    walked_ bigint;
    marks double precision[];
    from_ double precision;
BEGIN
    IF kind = 'ready' THEN
        IF {s}.remembered() ? ('ready/' || topic_) THEN
            PERFORM {s}.first_ready(topic_, now_);
            marks := {s}.marks_of(topic_, now_);
        END IF;
        IF marks IS NOT NULL THEN
            SELECT count(*) INTO n FROM (
                SELECT FROM generate_series(-9, 0) AS r (rank), LATERAL (
                    SELECT FROM {s}.ready AS b WHERE b.topic = topic_ AND b.rank = r.rank AND b.since >= marks[r.rank + 10]
                     OFFSET 0) AS each -- from each mark on: no join
                 LIMIT most) AS counted;
        ELSE
            walked_ := pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass);
            SELECT count(*) INTO n FROM (SELECT FROM {s}.ready WHERE topic = topic_ LIMIT most) AS counted;
            IF pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass) - walked_ - n > 1000 THEN
                PERFORM {s}.remember('ready/' || topic_, '{}');
            END IF;
        END IF;
    ELSIF kind = 'due' THEN
        from_ := {s}.due_from(topic_, now_);
        SELECT count(*) INTO n FROM (
            SELECT FROM {s}.scheduled WHERE topic = topic_ AND due >= from_ AND due <= now_ LIMIT most) AS counted;
    ELSIF kind = 'later' THEN
        SELECT count(*) INTO n FROM (SELECT FROM {s}.scheduled WHERE topic = topic_ AND due > now_ LIMIT most) AS counted;
    ELSIF kind = 'dead' THEN
        SELECT count(*) INTO n FROM (SELECT FROM {s}.dead WHERE topic = topic_ LIMIT most) AS counted;
    ELSIF kind = 'waiting' THEN
        SELECT count(*) INTO n FROM (SELECT FROM {s}.flow_member WHERE topic = topic_ AND phase < 2 LIMIT most) AS counted;
    END IF;
    RETURN n;
END $$;

-- Count all jobs of a topic and kind, and keep the number if it is large.
CREATE OR REPLACE FUNCTION {s}.count_all(kind_ text, topic_ text, now_ double precision) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    began double precision := extract(epoch FROM clock_timestamp());
    n bigint := {s}.count_up_to(kind_, topic_, NULL, now_);
BEGIN
    IF current_setting('transaction_read_only') = 'on' THEN
        RETURN n;
    END IF;
    IF n > 10000 THEN
        INSERT INTO {s}.size VALUES (topic_, kind_, n, now_, extract(epoch FROM clock_timestamp()) - began)
            ON CONFLICT (topic, kind) DO UPDATE SET jobs = excluded.jobs, at = excluded.at, took = excluded.took;
    ELSE
        DELETE FROM {s}.size WHERE topic = topic_ AND kind = kind_;
    END IF;
    RETURN n;
END $$;

CREATE OR REPLACE FUNCTION {s}.size_of(kind_ text, topic_ text, now_ double precision) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    n bigint := {s}.count_up_to(kind_, topic_, 10001, now_);
    known record;
BEGIN
    IF n <= 10000 THEN
        RETURN n;
    END IF;
    SELECT jobs, at INTO known FROM {s}.size WHERE topic = topic_ AND kind = kind_;
    IF FOUND AND now_ BETWEEN known.at - 1 AND known.at + 30 THEN
        RETURN greatest(n, known.jobs);
    END IF;
    RETURN {s}.count_all(kind_, topic_, now_);
END $$;

-- When the oldest ready plain job of a topic became ready.
CREATE OR REPLACE FUNCTION {s}.oldest_ready(topic_ text, now_ double precision) RETURNS double precision LANGUAGE plpgsql STABLE AS $$
DECLARE
    marks double precision[];
    from_ double precision := {s}.due_from(topic_, now_);
BEGIN
    IF {s}.remembered() ? ('ready/' || topic_) THEN
        marks := {s}.marks_of(topic_, now_);
    END IF;
    RETURN least(
        (SELECT min(best.since) FROM generate_series(-9, 0) AS r (rank), LATERAL (
             SELECT b.since FROM {s}.ready AS b
              WHERE b.topic = topic_ AND b.rank = r.rank AND b.since >= coalesce(marks[r.rank + 10], '-infinity') ORDER BY b.since
              LIMIT 1) AS best),
        (SELECT min(due) FROM {s}.scheduled WHERE topic = topic_ AND due >= from_ AND due <= now_));
END $$;

-- How many jobs of each topic are reserved. While vacuum is held back, all that were reserved since then is read for it, so this
-- session remembers the numbers for 20 times as long as that took. STABLE, so that a job on its way is counted once.
CREATE OR REPLACE FUNCTION {s}.count_reserved(now_ double precision) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    memory jsonb := {s}.remembered() -> 'reserved';
    last double precision := (memory ->> 'at')::double precision;
    began double precision := extract(epoch FROM clock_timestamp());
    jobs_ jsonb;
BEGIN
    IF now_ BETWEEN last AND last + 20 * (memory ->> 'took')::double precision THEN
        RETURN memory -> 'jobs';
    END IF;
    SELECT coalesce(jsonb_object_agg(c.topic, c.jobs), '{}') INTO jobs_
      FROM (SELECT r.topic, count(*) AS jobs FROM {s}.reserved AS r GROUP BY r.topic) AS c;
    IF pg_relation_size('{s}.reserved') > 8000000 THEN
        PERFORM {s}.remember('reserved', jsonb_build_object(
            'at', now_, 'took', extract(epoch FROM clock_timestamp()) - began, 'jobs', jobs_));
    ELSIF memory IS NOT NULL THEN
        PERFORM {s}.remember('reserved', NULL);
    END IF;
    RETURN jobs_;
END $$;

-- The numbers of jobs of topics, and the seconds for which the oldest ready one has been ready.
CREATE OR REPLACE FUNCTION {s}.count_jobs(topics text[])
RETURNS TABLE (topic text, ready bigint, later bigint, reserved bigint, dead bigint, age double precision, limited bigint,
               waiting bigint, pushed bigint, refused bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    clock double precision := {s}.now_();
BEGIN
    RETURN QUERY
        WITH held AS MATERIALIZED (SELECT {s}.count_reserved(clock) AS jobs)
        SELECT t, {s}.size_of('ready', t, clock) + {s}.size_of('due', t, clock) + coalesce(lines.ready, 0),
               {s}.size_of('later', t, clock), coalesce(((SELECT held.jobs FROM held) -> t)::bigint, 0), {s}.size_of('dead', t, clock),
               clock - least({s}.oldest_ready(t, clock), lines.oldest), coalesce(lines.limited, 0), {s}.size_of('waiting', t, clock),
               coalesce(ever.jobs, 0)::bigint, coalesce(ever.refused, 0)::bigint
          FROM unnest(topics) AS t LEFT JOIN {s}.lines_of(t) AS lines ON true
          LEFT JOIN (SELECT c.topic, sum(c.jobs) AS jobs, sum(c.refused) AS refused
                       FROM (SELECT * FROM {s}.pushed UNION ALL SELECT * FROM {s}.pushed_before) AS c
                      GROUP BY c.topic) AS ever ON ever.topic = t;
END $$;

-- Count large numbers again, the oldest ones first, for a fifth of a second; several housekeepers may do so at once.
CREATE OR REPLACE FUNCTION {s}.keep_sizes() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c record;
    began double precision := extract(epoch FROM clock_timestamp());
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR n IN 1 .. 100 LOOP
        SELECT * INTO c FROM {s}.size WHERE at + greatest(2, 20 * took) <= {s}.now_() OR at > {s}.now_() + 1
         ORDER BY at LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        PERFORM {s}.count_all(c.kind, c.topic, {s}.now_());
        EXIT WHEN extract(epoch FROM clock_timestamp()) > began + 0.2;
    END LOOP;
END $$;
