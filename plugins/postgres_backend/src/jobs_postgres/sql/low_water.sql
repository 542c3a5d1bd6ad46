-- Where to begin to look for jobs while vacuum is held back.
--
-- A deleted row stays in the indexes until no transaction can see it. Usually that takes no time. But while a transaction stays
-- open somewhere in the database, everything that `ready` and `scheduled` had since it began stays, in front of the jobs that are
-- there: each look would walk through it again. So a step that met more than 1,000 dead entries notes it, and from then on this
-- session remembers for the topic where the first job was: that is its low-water mark, a time for each priority. Later steps begin
-- there. No step of a store without an old transaction remembers or does anything.
--
-- Jobs may become ready below a mark: those that are released, whose transaction took long to commit, or if the clock was set
-- back. So all of a topic is looked at again after ten times as long as that takes, and after a second at least; after four times
-- as long if `overtaken` has changed, which says that a job became ready in an old place. A mark is never less than half a second
-- old, which covers what takes that long to commit.
--
-- `pg_stat_get_xact_tuples_returned` counts the entries of an index that this session has walked through, dead ones included. With
-- `track_counts = off`, which also stops autovacuum, there are no marks. The memory is a setting of the session, since it is worth nothing to others, and a table would have dead rows, too. It holds by
-- kind and topic: ready/TOPIC, due/TOPIC, and topics/TABLE.

CREATE SEQUENCE IF NOT EXISTS {s}.overtaken;

CREATE OR REPLACE FUNCTION {s}.remembered() RETURNS jsonb LANGUAGE sql STABLE AS
$$ SELECT nullif(current_setting('jobs.low_water_' || to_hex(hashtext('{s}')), true), '')::jsonb $$;

-- Remember something, or forget it if it is NULL.
CREATE OR REPLACE FUNCTION {s}.remember(name text, what jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    memory jsonb := coalesce({s}.remembered(), '{}');
BEGIN
    memory := CASE WHEN what IS NULL THEN memory - name ELSE memory || jsonb_build_object(name, what) END;
    PERFORM set_config('jobs.low_water_' || to_hex(hashtext('{s}')), CASE WHEN memory = '{}' THEN '' ELSE memory::text END, false);
END $$;

-- Where to look for ready jobs of a topic: a time for each priority from the highest to the lowest; NULL: everywhere.
CREATE OR REPLACE FUNCTION {s}.marks_of(topic_ text, now_ double precision) RETURNS double precision[] LANGUAGE plpgsql AS $$
DECLARE
    memory jsonb := {s}.remembered() -> ('ready/' || topic_);
    last double precision := coalesce((memory ->> 'at')::double precision, 0);
BEGIN
    IF memory IS NULL OR NOT now_ BETWEEN last AND last + greatest(1, 10 * (memory ->> 'took')::double precision) THEN
        RETURN NULL;
    END IF;
    IF now_ > last + 4 * (memory ->> 'took')::double precision
       AND (memory ->> 'overtaken')::bigint <> coalesce(pg_sequence_last_value('{s}.overtaken'), 0) THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(SELECT m::double precision FROM jsonb_array_elements_text(memory -> 'marks') WITH ORDINALITY AS each (m, n) ORDER BY n);
END $$;

-- Lock the first jobs of a topic, as `reserve` does, of which this session remembers something; return their places in the table.
CREATE OR REPLACE FUNCTION {s}.find_ready(topic_ text, most integer, now_ double precision) RETURNS tid[]
LANGUAGE plpgsql AS $$
DECLARE
    marks double precision[] := {s}.marks_of(topic_, now_);
    is_full boolean := marks IS NULL;
    walked_ bigint := pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass);
    before bigint;
    began double precision := extract(epoch FROM clock_timestamp());
    found_ tid[];
    ranks smallint[];
    times double precision[];
BEGIN
    IF is_full THEN
        before := coalesce(pg_sequence_last_value('{s}.overtaken'), 0);
        SELECT array_agg(place), array_agg(rank), array_agg(since) INTO found_, ranks, times FROM (
            SELECT ctid AS place, rank, since FROM {s}.ready WHERE topic = topic_ ORDER BY rank, since, seq LIMIT most
               FOR UPDATE SKIP LOCKED) AS best;
    ELSE
        SELECT array_agg(place), array_agg(rank), array_agg(since) INTO found_, ranks, times FROM (
            SELECT best.* FROM generate_series(-9, 0) AS r (rank), LATERAL (
                SELECT b.ctid AS place, b.rank, b.since FROM {s}.ready AS b
                 WHERE b.topic = topic_ AND b.rank = r.rank AND b.since >= marks[r.rank + 10] ORDER BY b.since, b.seq LIMIT most
                   FOR UPDATE SKIP LOCKED) AS best
             LIMIT most) AS best;
    END IF;
    found_ := coalesce(found_, '{}');
    walked_ := pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass) - walked_ - cardinality(found_);
    IF is_full OR walked_ > 200 THEN
        PERFORM {s}.mark_ready(
            topic_, marks, ranks, times, cardinality(found_) < most, now_, walked_, before, extract(epoch FROM clock_timestamp()) - began);
    END IF;
    RETURN found_;
END $$;

-- Remember where the first ready jobs of a topic are. `marks` is what was known, NULL after a look at all of them.
CREATE OR REPLACE FUNCTION {s}.mark_ready(
    topic_ text, marks double precision[], ranks smallint[], times double precision[], ended boolean, now_ double precision,
    walked_ bigint, overtaken_ bigint, took double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    memory jsonb;
    last smallint := CASE WHEN ended THEN 1 ELSE ranks[cardinality(ranks)] END; -- no other priority below this one has jobs
    first_ double precision;
BEGIN
    IF marks IS NULL THEN
        IF walked_ <= 1000 THEN
            PERFORM {s}.remember('ready/' || topic_, NULL);
            RETURN;
        END IF;
        memory := jsonb_build_object('at', now_, 'took', took, 'overtaken', overtaken_);
        marks := array_fill(-1::double precision, ARRAY[10]);
    ELSE
        memory := {s}.remembered() -> ('ready/' || topic_);
    END IF;
    FOR r IN -9 .. 0 LOOP
        SELECT max(since) INTO first_ FROM unnest(ranks, times) AS found_ (rank, since) WHERE rank = r;
        IF first_ IS NOT NULL OR r < last THEN
            marks[r + 10] := greatest(marks[r + 10], least(first_, now_ - 0.5));
        END IF;
    END LOOP;
    PERFORM {s}.remember('ready/' || topic_, memory || jsonb_build_object('marks', to_jsonb(marks)));
END $$;

-- The place of the first ready job of a topic, for a look that takes nothing; NULL if there is none.
CREATE OR REPLACE FUNCTION {s}.first_ready(topic_ text, now_ double precision, OUT rank smallint, OUT since double precision)
LANGUAGE plpgsql AS $$
DECLARE
    walked_ bigint := pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass);
    marks double precision[];
    before bigint;
    began double precision;
BEGIN
    IF {s}.remembered() ? ('ready/' || topic_) THEN
        marks := {s}.marks_of(topic_, now_);
        IF marks IS NOT NULL THEN
            SELECT best.rank, best.since INTO first_ready.rank, first_ready.since FROM generate_series(-9, 0) AS r (rank), LATERAL (
                SELECT b.rank, b.since FROM {s}.ready AS b
                 WHERE b.topic = topic_ AND b.rank = r.rank AND b.since >= marks[r.rank + 10] ORDER BY b.since LIMIT 1) AS best
             LIMIT 1;
            RETURN;
        END IF;
    END IF;
    began := extract(epoch FROM clock_timestamp());
    before := coalesce(pg_sequence_last_value('{s}.overtaken'), 0);
    SELECT b.rank, b.since INTO first_ready.rank, first_ready.since FROM {s}.ready AS b
     WHERE b.topic = topic_ ORDER BY b.rank, b.since, b.seq LIMIT 1;
    walked_ := pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass) - walked_;
    PERFORM {s}.mark_ready(
        topic_, NULL, CASE WHEN rank IS NOT NULL THEN ARRAY[rank] END, CASE WHEN rank IS NOT NULL THEN ARRAY[since] END, rank IS NULL,
        now_, walked_, before, extract(epoch FROM clock_timestamp()) - began);
END $$;

-- From when on to look for scheduled jobs of a topic that are due.
CREATE OR REPLACE FUNCTION {s}.due_from(topic_ text, now_ double precision) RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE
    memory jsonb := {s}.remembered() -> ('due/' || topic_);
    last double precision := (memory ->> 'at')::double precision;
BEGIN
    IF now_ BETWEEN last AND last + greatest(1, 10 * (memory ->> 'took')::double precision) THEN
        RETURN (memory ->> 'mark')::double precision;
    END IF;
    RETURN '-infinity';
END $$;

-- Remember that before `mark` no scheduled jobs are, if that is worth it. `from_` is what was known.
CREATE OR REPLACE FUNCTION {s}.mark_due(
    topic_ text, from_ double precision, mark double precision, walked_ bigint, now_ double precision, took double precision)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF from_ > '-infinity' THEN
        IF walked_ > 200 THEN
            PERFORM {s}.remember('due/' || topic_, {s}.remembered() -> ('due/' || topic_) || jsonb_build_object('mark', mark));
        END IF;
    ELSIF walked_ > 1000 THEN
        PERFORM {s}.remember('due/' || topic_, jsonb_build_object('at', now_, 'took', took, 'mark', mark));
    ELSIF {s}.remembered() ? ('due/' || topic_) THEN
        PERFORM {s}.remember('due/' || topic_, NULL);
    END IF;
END $$;

-- When the first scheduled job of a topic is due.
CREATE OR REPLACE FUNCTION {s}.next_due(topic_ text, now_ double precision) RETURNS double precision
LANGUAGE plpgsql AS $$
DECLARE
    from_ double precision := {s}.due_from(topic_, now_);
    walked_ bigint := pg_stat_get_xact_tuples_returned('{s}.scheduled_pkey'::regclass);
    began double precision := extract(epoch FROM clock_timestamp());
    first_ double precision := (SELECT min(due) FROM {s}.scheduled WHERE topic = topic_ AND due >= from_);
BEGIN
    PERFORM {s}.mark_due(
        topic_, from_, least(first_, now_ - 0.5), pg_stat_get_xact_tuples_returned('{s}.scheduled_pkey'::regclass) - walked_, now_,
        extract(epoch FROM clock_timestamp()) - began);
    RETURN first_;
END $$;
