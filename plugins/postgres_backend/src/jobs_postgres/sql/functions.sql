-- What a step does. Each function is one statement of a client, and so one transaction: entirely or not at all.

CREATE OR REPLACE FUNCTION {s}.now_() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::double precision $$;

-- Wake up to `most` workers that wait for jobs of a topic. Each is removed, so that the next one is woken next time.
CREATE OR REPLACE FUNCTION {s}.wake(topics text[], most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t text;
    c text;
BEGIN
    FOREACH t IN ARRAY topics LOOP
        FOR c IN DELETE FROM {s}.sleeper WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM {s}.sleeper WHERE topic = t LIMIT most FOR UPDATE SKIP LOCKED))
                 RETURNING channel LOOP
            PERFORM pg_notify(c, t);
        END LOOP;
    END LOOP;
END $$;

-- The same, as a statement of its own after a push: losing it in a crash of the server loses nothing, so it does not wait for
-- the disk, and no other transaction that notifies waits for it. It comes after the commit that makes the jobs visible.
CREATE OR REPLACE FUNCTION {s}.wake_after(topics text[], counts integer[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n integer;
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.sleeper WHERE topic = ANY (topics)) THEN
        RETURN;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR n IN 1 .. cardinality(topics) LOOP
        PERFORM {s}.wake(topics[n : n], counts[n]);
    END LOOP;
END $$;

-- Whether workers wait for jobs of these topics. A push asks this before its commit, and calls `wake_after` only if there are some:
-- a worker that falls asleep between the question and the commit looks for jobs again soon, see `wait` in backend.py.
CREATE OR REPLACE FUNCTION {s}.sleeps(topics text[]) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM {s}.sleeper WHERE topic = ANY (topics));
END $$;

-- Tell the processes that wait for the end of these jobs.
CREATE OR REPLACE FUNCTION {s}.tell(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {s}.waiter) THEN
        PERFORM pg_notify(channel, 'ended') FROM {s}.waiter WHERE id = ANY (ids);
    END IF;
END $$;

-- -- removal ------------------------------------------------------------------------------------------

-- Remove jobs that are in no other table any more, and keep a record of their end for `ttl` seconds if it is worth it.
CREATE OR REPLACE FUNCTION {s}.end_jobs(seqs bigint[], state_ text, ttl double precision, result_ bytea, now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ids text[];
    keys text[];
BEGIN
    SELECT array_agg(id), array_agg(unique_key) FILTER (WHERE unique_key IS NOT NULL) INTO ids, keys
      FROM {s}.job WHERE seq = ANY (seqs);
    IF ttl > 0 AND (result_ IS NOT NULL OR state_ = 'cancelled') THEN
        INSERT INTO {s}.ended SELECT id, topic, state_, now_, now_ + ttl, result_ FROM {s}.job WHERE seq = ANY (seqs)
            ON CONFLICT (id) DO UPDATE SET topic = excluded.topic, state = excluded.state, at = excluded.at,
                                           until = excluded.until, result = excluded.result;
    END IF;
    PERFORM {s}.forget(seqs, ids, keys, true);
    DELETE FROM {s}.job WHERE seq = ANY (seqs);
    PERFORM {s}.tell(ids);
END $$;

-- Free the unique keys of jobs that end, and delete their requests to be cancelled and their cursors.
CREATE OR REPLACE FUNCTION {s}.forget(seqs bigint[], ids text[], keys text[], cursors boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF keys IS NOT NULL THEN
        DELETE FROM {s}.unique_key WHERE key IN (
            SELECT key FROM {s}.unique_key WHERE key = ANY (keys) AND job_id = ANY (ids) AND scope <> 'time'
             ORDER BY key FOR UPDATE);
    END IF;
    IF EXISTS (SELECT FROM {s}.cancel) THEN
        DELETE FROM {s}.cancel WHERE seq = ANY (seqs);
    END IF;
    IF cursors AND EXISTS (SELECT FROM {s}.checkpoint) THEN
        DELETE FROM {s}.checkpoint WHERE seq = ANY (seqs);
    END IF;
END $$;

-- Remove ready, limited and scheduled jobs; return the sequence numbers of those that were one of these.
CREATE OR REPLACE FUNCTION {s}.dequeue(seqs bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    found_ bigint[] := '{}';
    part bigint[];
BEGIN
    WITH gone AS (
        DELETE FROM {s}.ready AS r USING {s}.job AS j
         WHERE j.seq = ANY (seqs) AND (r.topic, r.rank, r.since, r.seq) = (j.topic, j.rank, j.since, j.seq) RETURNING r.seq)
    SELECT array_agg(seq) INTO part FROM gone;
    found_ := found_ || coalesce(part, '{}');
    WITH gone AS (DELETE FROM {s}.scheduled WHERE seq = ANY (seqs) RETURNING seq)
    SELECT array_agg(seq) INTO part FROM gone;
    found_ := found_ || coalesce(part, '{}');
    IF cardinality(found_) < cardinality(seqs) THEN
        found_ := found_ || {s}.leave_lines(seqs);
    END IF;
    RETURN found_;
END $$;

CREATE OR REPLACE FUNCTION {s}.noted(errors bytea[], error bytea) RETURNS bytea[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN error IS NULL OR length(error) = 0 THEN errors
                WHEN cardinality(errors) >= 10 THEN errors[cardinality(errors) - 8 :] || error
                ELSE coalesce(errors, '{}') || error END
$$;

-- Drop up to 1,000 of the oldest dead letters of a topic beyond `most`, which is small: it costs as much as the topic keeps.
CREATE OR REPLACE FUNCTION {s}.trim_dead(topic_ text, most integer, now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    walk jsonb := {s}.first_beyond(topic_, most, NULL);
BEGIN
    IF walk ? 'seq' THEN
        PERFORM {s}.drop_oldest(topic_, (walk ->> 'at')::double precision, (walk ->> 'seq')::bigint, 1000, now_);
    END IF;
END $$;

-- Drop up to `most` of the oldest dead letters of a topic, up to a place; return how many.
CREATE OR REPLACE FUNCTION {s}.drop_oldest(
    topic_ text, upto_at double precision, upto_seq bigint, most integer, now_ double precision)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    places tid[] := {s}.oldest_dead(topic_, upto_at, upto_seq, most);
    old bigint[];
BEGIN
    WITH gone AS (DELETE FROM {s}.dead WHERE ctid = ANY (places) RETURNING seq)
    SELECT array_agg(seq) INTO old FROM gone;
    IF old IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM {s}.end_jobs(old, 'dead', 0, NULL, now_);
    UPDATE {s}.size SET jobs = jobs - cardinality(old) WHERE topic = topic_ AND kind = 'dead';
    RETURN cardinality(old);
END $$;

-- Lock the oldest dead letters of a topic, up to a place; return where they are. It reads them in order: a sort would read all.
CREATE OR REPLACE FUNCTION {s}.oldest_dead(topic_ text, upto_at double precision, upto_seq bigint, most integer) RETURNS tid[]
LANGUAGE plpgsql SET enable_sort = off AS $$
BEGIN
    RETURN ARRAY(
        SELECT ctid FROM {s}.dead WHERE topic = topic_ AND (at, seq) <= (upto_at, upto_seq)
           AND (seq > 0 OR {s}.is_dispensable(seq)) ORDER BY at, seq LIMIT most FOR UPDATE SKIP LOCKED);
END $$;

-- Drop dead letters beyond the greatest number that their topics may have; return whether there may be more. `walks` is what the
-- call before has returned: an object of walks by topic, see `first_beyond`.
CREATE OR REPLACE FUNCTION {s}.keep_dead(topics text[], most integer[], INOUT walks text, OUT more boolean) LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    size_ bigint;
    walk jsonb;
    walks_ jsonb := '{}';
BEGIN
    more := false;
    FOR n IN 1 .. cardinality(topics) LOOP
        size_ := {s}.size_of('dead', topics[n], now_);
        CONTINUE WHEN size_ <= most[n];
        walk := walks::jsonb -> topics[n];
        walk := {s}.first_beyond(topics[n], most[n], CASE WHEN walk ->> 'most' = most[n]::text THEN walk END);
        walks_ := walks_ || jsonb_build_object(topics[n], walk || jsonb_build_object('most', most[n]));
        IF walk ? 'seq' THEN
            more := {s}.drop_oldest(
                topics[n], (walk ->> 'at')::double precision, (walk ->> 'seq')::bigint, 1000, now_) >= 1000 OR more;
        END IF;
        more := more OR size_ > 1.1 * most[n] AND walk ? 'counted';
    END LOOP;
    walks := walks_::text;
END $$;

-- Look for the newest dead letter of a topic beyond the `most` newest ones, from where the walk before has come to.
--
-- Letters are counted from the newest one on, 10,000 in each call. A walk that has not ended has the number of those that were
-- `counted`, and the last of them (`from_at`, `from_seq`). `at` and `seq` are the letter that the last complete walk has found: it
-- was beyond the others then, whatever has become of them since.
CREATE OR REPLACE FUNCTION {s}.first_beyond(topic_ text, most integer, walk jsonb) RETURNS jsonb
LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE
    found_ jsonb := coalesce(walk - ARRAY['counted', 'from_at', 'from_seq'], '{}');
    counted integer := coalesce((walk ->> 'counted')::integer, 0);
    from_at double precision := coalesce((walk ->> 'from_at')::double precision, 'infinity');
    from_seq bigint := coalesce((walk ->> 'from_seq')::bigint, 0);
    looked integer := 0;
    d record;
BEGIN
    FOR d IN SELECT l.at, l.seq FROM {s}.dead AS l WHERE l.topic = topic_ AND (l.at, l.seq) < (from_at, from_seq)
              ORDER BY l.at DESC, l.seq DESC LIMIT 10000 LOOP
        looked := looked + 1;
        CONTINUE WHEN d.seq < 0 AND NOT {s}.is_dispensable(d.seq);
        counted := counted + 1;
        IF counted > most THEN
            RETURN jsonb_build_object('at', d.at, 'seq', d.seq);
        END IF;
    END LOOP;
    IF looked = 10000 THEN
        RETURN found_ || jsonb_build_object('counted', counted, 'from_at', d.at, 'from_seq', d.seq);
    END IF;
    RETURN found_;
END $$;

-- Move a job, which is in no other table any more, to the dead letters; drop the oldest ones beyond `most` if that is small.
CREATE OR REPLACE FUNCTION {s}.make_dead(
    seq_ bigint, reason_ text, error bytea, counted integer, most integer, now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j record;
BEGIN
    UPDATE {s}.job SET errors = {s}.noted(errors, error), attempt = attempt + counted WHERE seq = seq_
        RETURNING id, topic, unique_key INTO j;
    PERFORM {s}.forget(ARRAY[seq_], ARRAY[j.id], CASE WHEN j.unique_key IS NULL THEN NULL ELSE ARRAY[j.unique_key] END, false);
    INSERT INTO {s}.dead VALUES (j.topic, now_, seq_, reason_);
    IF most < 1000 THEN
        PERFORM {s}.trim_dead(j.topic, most, now_); -- of greater numbers, housekeeping does so
    END IF;
    PERFORM {s}.tell(ARRAY[j.id]);
END $$;

-- -- push -----------------------------------------------------------------------------------------------

-- Store messages: their facts as a JSON array of objects, and their payloads in the same order. Returns the conflicts by id.
-- `plain`: none has a unique key or a chosen id; `lined`: one has limits or a key. The first message may have numbers by topic as
-- `n`: what to add to the counts. They include a single plain message with a request; others are counted here.
CREATE OR REPLACE FUNCTION {s}.push(
    request_ text, messages jsonb, payloads bytea[], plain boolean, lined boolean, loosely boolean,
    cancelled_ttl double precision)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_ double precision := {s}.now_();
    conflicts_ jsonb := '{}';
BEGIN
    IF request_ IS NOT NULL THEN
        INSERT INTO {s}.push_request VALUES (request_, now_, '{}') ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN (SELECT conflicts FROM {s}.push_request WHERE request = request_);
        END IF;
    END IF;
    IF messages -> 0 ? 'n' THEN
        PERFORM {s}.count_pushed(messages -> 0 -> 'n');
    END IF;
    IF plain THEN
        IF request_ IS NULL OR jsonb_array_length(messages) > 1 THEN
            PERFORM {s}.count_messages(messages, '{}');
        END IF;
        IF lined THEN
            PERFORM {s}.insert_lined(messages, payloads, now_);
        ELSE
            PERFORM {s}.insert_jobs(messages, payloads, now_);
        END IF;
        RETURN conflicts_;
    END IF;
    conflicts_ := {s}.insert_each(messages, payloads, loosely, cancelled_ttl, now_);
    PERFORM {s}.count_messages(messages, conflicts_);
    IF request_ IS NOT NULL AND conflicts_ <> '{}' THEN
        UPDATE {s}.push_request SET conflicts = conflicts_ WHERE request = request_;
    END IF;
    RETURN conflicts_;
END $$;

-- The same for one message that has neither a unique key, nor a chosen id, nor limits, nor a key: in as few steps as possible, since
-- it is what web processes do all day. `counts`: what to add to the counts. Returns whether workers wait for jobs of the topic.
CREATE OR REPLACE FUNCTION {s}.push_one(
    request_ text, id_ text, topic_ text, rank_ smallint, delay double precision, payload_ bytea, counts jsonb)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    now_ double precision := {s}.now_();
    seq_ bigint;
BEGIN
    INSERT INTO {s}.push_request VALUES (request_, now_, '{}') ON CONFLICT DO NOTHING;
    IF FOUND THEN
        IF counts IS NOT NULL THEN
            PERFORM {s}.count_pushed(counts);
        END IF;
        INSERT INTO {s}.job (seq, id, topic, rank, since, pushed_at, payload)
            VALUES (nextval('{s}.arrival'), id_, topic_, rank_, now_ + delay, now_, payload_)
            ON CONFLICT (id) DO NOTHING RETURNING seq INTO seq_;
        IF seq_ IS NULL THEN
            NULL; -- it is there
        ELSIF delay > 0 THEN
            INSERT INTO {s}.scheduled VALUES (topic_, now_ + delay, seq_, rank_);
        ELSE
            INSERT INTO {s}.ready VALUES (topic_, rank_, now_, seq_);
        END IF;
    END IF;
    RETURN EXISTS (SELECT FROM {s}.sleeper WHERE topic = topic_);
END $$;

CREATE OR REPLACE FUNCTION {s}.insert_jobs(messages jsonb, payloads bytea[], now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$ -- planned once, unlike a function in SQL
BEGIN
    WITH new AS (
        INSERT INTO {s}.job (seq, id, topic, rank, since, pushed_at, key, limits, payload)
        SELECT nextval('{s}.arrival'), i, t, r, now_ + d, now_, k, l, p FROM (
            SELECT * FROM ROWS FROM (
                jsonb_to_recordset(messages) AS (i text, t text, r smallint, d double precision, k text, l text[]),
                unnest(payloads)) WITH ORDINALITY AS m (i, t, r, d, k, l, p, n) ORDER BY n) AS m
        ON CONFLICT (id) DO NOTHING
        RETURNING topic, rank, since, seq),
    later AS (
        INSERT INTO {s}.scheduled SELECT topic, since, seq, rank FROM new WHERE since > now_)
    INSERT INTO {s}.ready SELECT topic, rank, since, seq FROM new WHERE since <= now_;
END $$;

-- Store messages with unique keys or chosen ids, one after the other.
CREATE OR REPLACE FUNCTION {s}.insert_each(
    messages jsonb, payloads bytea[], loosely boolean, cancelled_ttl double precision, now_ double precision)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    m record;
    held record;
    n integer := 0;
    conflicts jsonb := '{}';
    added text[] := '{}';
    together text[];
    lim double precision;
    until_ double precision;
    due double precision;
    gone bigint[];
BEGIN
    -- In one order, so that two pushes never wait for one another.
    PERFORM pg_advisory_xact_lock(hashtextextended('{s}' || key, 0)) FROM (
        SELECT DISTINCT value ->> 'u' AS key FROM jsonb_array_elements(messages) WHERE value ? 'u' ORDER BY 1) AS keys;
    IF loosely THEN
        SELECT array_agg(value ->> 'i') INTO together FROM jsonb_array_elements(messages);
    END IF;
    FOR m IN SELECT value AS v, value ->> 'i' AS id, value ->> 'u' AS key, coalesce((value ->> 'c')::boolean, false) AS chosen
               FROM jsonb_array_elements(messages) LOOP
        n := n + 1;
        IF EXISTS (SELECT FROM {s}.job WHERE id = m.id)
            OR m.chosen AND EXISTS (SELECT FROM {s}.ended WHERE id = m.id AND until > now_) THEN
            IF m.chosen AND NOT m.id = ANY (added) THEN
                conflicts := conflicts || jsonb_build_object(m.id, m.id);
            ELSE
                INSERT INTO {s}.pushed VALUES (m.v ->> 't', -1, 0); -- the caller counts it as added
            END IF;
            CONTINUE;
        END IF;
        due := (m.v ->> 'd')::double precision;
        IF m.key IS NOT NULL THEN
            lim := NULL;
            SELECT job_id, scope, loose, until INTO held FROM {s}.unique_key
             WHERE key = m.key AND (until IS NULL OR until > now_) FOR UPDATE;
            IF FOUND THEN
                IF m.v ->> 'o' = 'replace' OR held.loose AND NOT held.job_id = ANY (coalesce(together, '{}')) THEN
                    SELECT {s}.dequeue(array_agg(seq)) INTO gone FROM {s}.job WHERE id = held.job_id AND seq > 0;
                ELSE
                    gone := '{}';
                END IF;
                IF coalesce(cardinality(gone), 0) = 0 THEN
                    conflicts := conflicts || jsonb_build_object(m.id, held.job_id);
                    CONTINUE;
                END IF;
                IF held.scope = 'queued' THEN
                    lim := held.until;
                END IF;
                PERFORM {s}.end_jobs(gone, 'cancelled', cancelled_ttl, NULL, now_);
            END IF;
            until_ := now_ + (m.v ->> 'h')::double precision;
            IF until_ IS NOT NULL AND lim IS NOT NULL AND m.v ->> 's' <> 'time' THEN
                until_ := least(until_, lim);
            END IF;
            INSERT INTO {s}.unique_key VALUES (m.key, m.id, m.v ->> 's', loosely, until_)
                ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, scope = excluded.scope, loose = excluded.loose,
                                                until = excluded.until;
            IF m.v ->> 's' = 'queued' AND until_ IS NOT NULL THEN
                due := least(due, until_ - now_);
            END IF;
        END IF;
        added := added || m.id;
        m.v := m.v || jsonb_build_object('d', greatest(due, 0));
        IF m.v ? 'l' OR m.v ? 'k' THEN
            PERFORM {s}.insert_lined(jsonb_build_array(m.v), payloads[n : n], now_);
        ELSE
            PERFORM {s}.insert_jobs(jsonb_build_array(m.v), payloads[n : n], now_);
        END IF;
        IF m.key IS NOT NULL THEN
            UPDATE {s}.job SET unique_key = m.key WHERE id = m.id;
        END IF;
    END LOOP;
    RETURN conflicts;
END $$;

-- Bind keys that these messages still hold; return the others with the new holders: see BindsKeys.
CREATE OR REPLACE FUNCTION {s}.bind(ids text[], keys text[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    lost jsonb := '{}';
    held record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('{s}' || key, 0)) FROM (
        SELECT DISTINCT key FROM unnest(keys) AS key ORDER BY 1) AS sorted;
    FOR n IN 1 .. cardinality(ids) LOOP
        UPDATE {s}.unique_key SET loose = false WHERE key = keys[n] AND job_id = ids[n];
        IF NOT FOUND THEN
            SELECT job_id, loose INTO held FROM {s}.unique_key WHERE key = keys[n] AND (until IS NULL OR until > now_);
            IF FOUND THEN
                lost := lost || jsonb_build_object(ids[n], CASE WHEN held.loose THEN '' ELSE held.job_id END);
            END IF;
        END IF;
    END LOOP;
    RETURN lost;
END $$;

-- -- reserve ----------------------------------------------------------------------------------------------

-- Make scheduled jobs of a topic ready that are due; return how many.
CREATE OR REPLACE FUNCTION {s}.ready_due(topic_ text, most integer, now_ double precision) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    n integer := 0;
    walked_ bigint := pg_stat_get_xact_tuples_returned('{s}.scheduled_pkey'::regclass);
    from_ double precision := '-infinity';
    last double precision;
BEGIN
    IF {s}.remembered() IS NOT NULL THEN
        from_ := {s}.due_from(topic_, now_);
    END IF;
    IF EXISTS (SELECT FROM {s}.scheduled WHERE topic = topic_ AND due >= from_ AND due <= now_) THEN
        WITH due AS (
            DELETE FROM {s}.scheduled WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {s}.scheduled WHERE topic = topic_ AND due >= from_ AND due <= now_ ORDER BY due, seq LIMIT most
                   FOR UPDATE SKIP LOCKED))
            RETURNING topic, rank, due, seq, lined),
        plain AS (
            INSERT INTO {s}.ready SELECT topic, rank, due, seq FROM due WHERE NOT lined),
        others AS (
            INSERT INTO {s}.entering (topic, n, seq, rank, since, front)
            SELECT topic, nextval('{s}.arrival'), seq, rank, due, false
              FROM (SELECT * FROM due WHERE lined ORDER BY due, seq) AS due)
        SELECT count(*), max(due), CASE WHEN min(due) < now_ - 0.5 THEN nextval('{s}.overtaken') END INTO n, last FROM due;
    END IF;
    walked_ := pg_stat_get_xact_tuples_returned('{s}.scheduled_pkey'::regclass) - walked_ - n;
    IF walked_ > 200 OR from_ > '-infinity' THEN
        PERFORM {s}.mark_due(
            topic_, from_, least(CASE WHEN n = most THEN last END, now_ - 0.5), walked_, now_,
            extract(epoch FROM clock_timestamp()) - now_);
    END IF;
    RETURN n;
END $$;

-- Renew the lease of an owner, if that is worth a write, and keep the owner from being released meanwhile.
CREATE OR REPLACE FUNCTION {s}.renew(owner_ text, lease double precision, now_ double precision, worth double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    until_ double precision;
BEGIN
    SELECT lease_until INTO until_ FROM {s}.owner WHERE id = owner_ FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the owner is gone' USING ERRCODE = 'JOBS1';
    END IF;
    IF until_ < now_ + lease * worth THEN
        UPDATE {s}.owner SET lease_until = now_ + lease WHERE id = owner_;
    END IF;
END $$;

-- Reserve up to `most` jobs, of those with a limit on concurrency at most `startable`. A last row without a job says whether one
-- that could start was left behind because of that (`holds`), and whether there is something to carry on with in flows (`topic`).
CREATE OR REPLACE FUNCTION {s}.reserve(
    owner_ text, lease double precision, topics text[], most integer, request_ text, again boolean, startable integer)
RETURNS TABLE (
    seq bigint, id text, topic text, payload bytea, attempt integer, redeliveries integer, crashes integer,
    deferrals integer, pushed_at double precision, unique_key text, key text, limits text[], cursor_ bytea,
    now_ double precision, holds boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    clock double precision := {s}.now_();
    t text;
    lacking integer := most;
    n integer;
    is_paused boolean;
    has_lines boolean;
    served record;
    passed_over boolean := false;
    carries_on boolean;
    places tid[];
    walked_ bigint;
BEGIN
    PERFORM {s}.renew(owner_, lease, clock, 0.8);
    IF again THEN
        RETURN QUERY SELECT * FROM {s}.delivered(owner_, request_, clock);
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true); -- lost in a crash of the server, the jobs are ready again
    FOREACH t IN ARRAY topics LOOP
        EXIT WHEN lacking <= 0;
        PERFORM {s}.ready_due(t, greatest(1000, most), clock);
        SELECT EXISTS (SELECT FROM {s}.paused AS p WHERE p.topic = t),
               EXISTS (SELECT FROM {s}.topic_lines AS l WHERE l.topic = t) OR EXISTS (SELECT FROM {s}.entering AS e WHERE e.topic = t)
          INTO is_paused, has_lines;
        CONTINUE WHEN is_paused;
        IF has_lines THEN
            SELECT * INTO served FROM {s}.serve(t, lacking, startable, owner_, request_, clock);
            startable := served.may_take;
            passed_over := passed_over OR served.passed_over;
            lacking := lacking - cardinality(served.taken);
            RETURN QUERY
                SELECT j.seq, j.id, j.topic, j.payload, j.attempt, j.redeliveries, j.crashes, j.deferrals, j.pushed_at,
                       j.unique_key, j.key, j.limits, (SELECT c.cursor FROM {s}.checkpoint AS c WHERE c.seq = j.seq), clock,
                       r.slots IS NOT NULL
                  FROM unnest(served.taken) WITH ORDINALITY AS k (seq, n) JOIN {s}.job AS j ON j.seq = k.seq
                  JOIN {s}.reserved AS r ON r.seq = k.seq ORDER BY k.n;
            CONTINUE;
        END IF;
        places := CASE WHEN {s}.remembered() ? ('ready/' || t) THEN {s}.find_ready(t, lacking, clock) END;
        walked_ := pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass);
        RETURN QUERY
            WITH picked AS (
                DELETE FROM {s}.ready AS r WHERE r.ctid = ANY (CASE WHEN places IS NULL THEN ARRAY(
                    SELECT ctid FROM {s}.ready AS best WHERE best.topic = t ORDER BY best.rank, best.since, best.seq
                     LIMIT lacking FOR UPDATE SKIP LOCKED) ELSE places END)
                RETURNING r.seq, r.rank, r.since),
            put AS (
                INSERT INTO {s}.reserved SELECT picked.seq, clock, owner_, request_, t FROM picked)
            SELECT j.seq, j.id, j.topic, j.payload, j.attempt, j.redeliveries, j.crashes, j.deferrals, j.pushed_at, j.unique_key,
                   j.key, j.limits, (SELECT c.cursor FROM {s}.checkpoint AS c WHERE c.seq = j.seq), clock, false
              FROM picked, LATERAL (SELECT * FROM {s}.job AS k WHERE k.seq = picked.seq OFFSET 0) AS j -- each by its key: no join
             ORDER BY picked.rank, picked.since, picked.seq;
        GET DIAGNOSTICS n = ROW_COUNT;
        lacking := lacking - n;
        IF pg_stat_get_xact_tuples_returned('{s}.ready_pkey'::regclass) - walked_ - n > 1000 THEN
            PERFORM {s}.remember('ready/' || t, '{}'); -- so that the next look finds the mark
        END IF;
        IF lacking <= 0 AND EXISTS (SELECT FROM {s}.sleeper AS z WHERE z.topic = t)
            AND (places IS NOT NULL OR EXISTS (SELECT FROM {s}.ready AS r WHERE r.topic = t)) THEN
            PERFORM {s}.wake(ARRAY[t], 1); -- there are more
        END IF;
    END LOOP;
    carries_on := (lacking > 0 OR most = 0) AND EXISTS (SELECT FROM {s}.flow_left);
    IF carries_on OR passed_over THEN
        topic := CASE WHEN carries_on THEN '' END;
        holds := passed_over;
        RETURN NEXT;
    END IF;
END $$;

-- Free the keys that jobs hold only while they are queued.
CREATE OR REPLACE FUNCTION {s}.free_queued(ids text[], keys text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {s}.unique_key WHERE key IN (
        SELECT key FROM {s}.unique_key WHERE key = ANY (keys) AND job_id = ANY (ids) AND scope = 'queued' ORDER BY key FOR UPDATE);
END $$;

-- The jobs that an owner has reserved with a request.
CREATE OR REPLACE FUNCTION {s}.delivered(owner_ text, request_ text, clock double precision)
RETURNS TABLE (
    seq bigint, id text, topic text, payload bytea, attempt integer, redeliveries integer, crashes integer,
    deferrals integer, pushed_at double precision, unique_key text, key text, limits text[], cursor_ bytea,
    now_ double precision, holds boolean)
LANGUAGE sql AS $$
    SELECT j.seq, j.id, j.topic, j.payload, j.attempt, j.redeliveries, j.crashes, j.deferrals, j.pushed_at, j.unique_key,
           j.key, j.limits, (SELECT c.cursor FROM {s}.checkpoint AS c WHERE c.seq = j.seq), clock, r.slots IS NOT NULL
      FROM {s}.reserved AS r JOIN {s}.job AS j USING (seq) WHERE r.owner = owner_ AND r.request = request_
     ORDER BY j.rank, j.since, j.seq
$$;

-- Reserve exactly these jobs, even if another owner has them.
CREATE OR REPLACE FUNCTION {s}.take_over(owner_ text, lease double precision, ids text[], request_ text, again boolean)
RETURNS TABLE (
    seq bigint, id text, topic text, payload bytea, attempt integer, redeliveries integer, crashes integer,
    deferrals integer, pushed_at double precision, unique_key text, key text, limits text[], cursor_ bytea,
    now_ double precision, holds boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    clock double precision := {s}.now_();
    these bigint[];
    held jsonb[];
BEGIN
    PERFORM {s}.renew(owner_, lease, clock, 0.8);
    IF NOT again THEN
        SELECT array_agg(locked.seq) INTO these FROM (
            SELECT j.seq FROM {s}.job AS j WHERE j.id = ANY (ids) ORDER BY j.seq FOR UPDATE) AS locked
         WHERE NOT EXISTS (SELECT FROM {s}.dead AS d WHERE d.seq = locked.seq) AND (locked.seq > 0 OR {s}.may_start(locked.seq));
        IF these IS NOT NULL THEN
            UPDATE {s}.job AS j SET since = clock FROM {s}.scheduled AS p WHERE p.seq = j.seq AND j.seq = ANY (these);
            DELETE FROM {s}.scheduled AS p WHERE p.seq = ANY (these);
            PERFORM {s}.dequeue(these);
            WITH gone AS (DELETE FROM {s}.reserved AS r WHERE r.seq = ANY (these) RETURNING r.slots)
            SELECT array_agg(slots) FILTER (WHERE slots IS NOT NULL) INTO held FROM gone;
            IF held IS NOT NULL THEN
                PERFORM {s}.free(held, true);
            END IF;
            INSERT INTO {s}.reserved
            SELECT j.seq, clock, owner_, request_, j.topic FROM {s}.job AS j WHERE j.seq = ANY (these);
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM {s}.delivered(owner_, request_, clock);
END $$;

-- -- settle -----------------------------------------------------------------------------------------------

-- Return the answers to this settle request if it is a repeated one, NULL if it is new; forget the one before.
CREATE OR REPLACE FUNCTION {s}.settling(owner_ text, request_ text, before text, again boolean, count_ integer)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    known text;
BEGIN
    PERFORM FROM {s}.owner WHERE id = owner_ FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN repeat('-', count_);
    END IF;
    IF again THEN
        SELECT answers INTO known FROM {s}.settled WHERE owner = owner_ AND request = request_;
        IF FOUND THEN
            RETURN replace(known, 's', 'a');
        END IF;
    END IF;
    DELETE FROM {s}.settled WHERE owner = owner_ AND request = before;
    RETURN NULL;
END $$;

-- Settle done jobs, as one settle request; return for each whether it was reserved by this owner with this request.
CREATE OR REPLACE FUNCTION {s}.settle_done(
    owner_ text, request_ text, before text, again boolean, seqs bigint[], requests text[])
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    answer text := {s}.settling(owner_, request_, before, again, cardinality(seqs));
BEGIN
    IF answer IS NOT NULL THEN
        RETURN answer;
    END IF;
    answer := {s}.delete_done(owner_, seqs, requests);
    INSERT INTO {s}.settled VALUES (owner_, request_, answer);
    RETURN answer;
END $$;

-- Delete done jobs; return the answers.
CREATE OR REPLACE FUNCTION {s}.delete_done(owner_ text, seqs bigint[], requests text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
    gone bigint[];
    ids text[];
    keys text[];
BEGIN
    WITH gone AS ( -- no join: its plan follows the statistics, and may read all that vacuum could not remove
        DELETE FROM {s}.reserved AS r
         WHERE r.seq = ANY (seqs) AND r.owner = owner_ AND ((r.seq, r.request) IN (SELECT * FROM unnest(seqs, requests))) IS TRUE
        RETURNING r.seq),
    jobs AS (
        DELETE FROM {s}.job AS j WHERE j.seq = ANY (ARRAY(SELECT seq FROM gone)) RETURNING j.seq, j.id, j.unique_key)
    SELECT array_agg(seq), array_agg(id), array_agg(unique_key) FILTER (WHERE unique_key IS NOT NULL) INTO gone, ids, keys
      FROM jobs;
    PERFORM {s}.forget(gone, ids, keys, true);
    PERFORM {s}.tell(ids);
    IF cardinality(gone) = cardinality(seqs) THEN
        answer := repeat('s', cardinality(seqs));
    ELSE
        SELECT string_agg(CASE WHEN t.seq = ANY (coalesce(gone, '{}')) THEN 's' ELSE '-' END, '' ORDER BY n) INTO answer
          FROM unnest(seqs) WITH ORDINALITY AS t (seq, n);
    END IF;
    RETURN answer;
END $$;

-- Settle one reservation; return what became of the job, NULL if it was none of this owner.
CREATE OR REPLACE FUNCTION {s}.settle_one(
    owner_ text, seq_ bigint, request_ text, outcome text, after_ double precision, counted integer, reason text, error bytea,
    result bytea, ttl double precision, cursor_ bytea, new_limits text[], ran boolean, cancelled_ttl double precision,
    dead_max integer)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    cancelled boolean;
    slots_ jsonb;
BEGIN
    DELETE FROM {s}.reserved WHERE seq = seq_ AND request = request_ AND owner = owner_ RETURNING slots INTO slots_;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF slots_ IS NOT NULL THEN
        PERFORM {s}.free(ARRAY[slots_], ran);
    END IF;
    IF cursor_ IS NOT NULL THEN
        INSERT INTO {s}.checkpoint VALUES (seq_, cursor_) ON CONFLICT (seq) DO UPDATE SET cursor = excluded.cursor;
    END IF;
    IF outcome = 'done' OR outcome = 'cancelled' THEN
        PERFORM {s}.end_jobs(ARRAY[seq_], outcome, ttl, result, now_);
        RETURN outcome;
    ELSIF outcome = 'dead' OR outcome = 'expired' THEN
        PERFORM {s}.make_dead(seq_, reason, error, counted, dead_max, now_);
        RETURN 'dead';
    END IF;
    SELECT EXISTS (SELECT FROM {s}.cancel WHERE seq = seq_) INTO cancelled;
    IF cancelled THEN
        PERFORM {s}.end_jobs(ARRAY[seq_], 'cancelled', cancelled_ttl, NULL, now_);
        RETURN 'cancelled';
    END IF;
    IF outcome <> 'release' OR new_limits IS NOT NULL THEN
        UPDATE {s}.job SET
            attempt = attempt + (outcome = 'retry')::integer,
            deferrals = deferrals + (outcome = 'defer')::integer,
            errors = CASE WHEN outcome = 'retry' THEN {s}.noted(errors, error) ELSE errors END,
            limits = CASE WHEN new_limits IS NULL THEN limits ELSE nullif(new_limits, '{}') END,
            since = CASE WHEN outcome = 'release' THEN since ELSE now_ + greatest(after_, 0) END
         WHERE seq = seq_;
    END IF;
    IF outcome <> 'release' AND after_ > 0 THEN
        INSERT INTO {s}.scheduled
        SELECT topic, since, seq, rank, limits IS NOT NULL OR key IS NOT NULL FROM {s}.job WHERE seq = seq_;
    ELSE
        PERFORM {s}.line_up(ARRAY[seq_], outcome = 'release');
    END IF;
    RETURN 'queued';
END $$;

-- -- owners -----------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION {s}.register(owner_ text, lease double precision) RETURNS void LANGUAGE sql AS $$
    INSERT INTO {s}.owner VALUES (owner_, {s}.now_() + lease)
        ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
$$;

-- Release an owner's jobs, charge those that had started (NULL: all), and forget the owner; return the topics of its jobs,
-- and of others that are ready now. Those in `ran` had started, too, and are not charged.
CREATE OR REPLACE FUNCTION {s}.release_owner(
    owner_ text, started text[], ran text[], report bytea, crash boolean, cancelled_ttl double precision,
    OUT topics text[], OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    flows bigint[];
    barred bigint[];
    now_ double precision := {s}.now_();
    held bigint[];
    holding bigint[];
    slots_ jsonb[];
    ended bigint[];
    charged bigint[];
BEGIN
    topics := '{}';
    woken := '{}';
    DELETE FROM {s}.owner WHERE id = owner_;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM {s}.settled WHERE owner = owner_;
    barred := ARRAY(SELECT seq FROM {s}.reserved WHERE owner = owner_ AND seq < 0);
    IF barred <> '{}' THEN
        flows := {s}.lock_flows(barred);
        barred := ARRAY(SELECT seq FROM unnest(barred) AS seq WHERE NOT {s}.may_start(seq));
    END IF;
    WITH gone AS (DELETE FROM {s}.reserved WHERE owner = owner_ RETURNING seq, topic, slots)
    SELECT array_agg(seq), coalesce(array_agg(topic), '{}'), array_agg(seq) FILTER (WHERE slots IS NOT NULL),
           array_agg(slots) FILTER (WHERE slots IS NOT NULL)
      INTO held, topics, holding, slots_ FROM gone;
    IF held IS NULL THEN
        RETURN;
    END IF;
    IF holding IS NOT NULL THEN
        PERFORM {s}.free(array_agg(h.slots), h.ended)
          FROM (SELECT s.slots, started IS NULL OR j.id = ANY (started) OR j.id = ANY (ran) AS ended
                  FROM unnest(holding, slots_) AS s (seq, slots) JOIN {s}.job AS j USING (seq)) AS h GROUP BY h.ended;
    END IF;
    WITH these AS (
        UPDATE {s}.job SET redeliveries = redeliveries + 1, errors = {s}.noted(errors, report),
               crashes = crashes + coalesce(crash, cardinality(held) = 1)::integer
         WHERE seq = ANY (held) AND (started IS NULL OR id = ANY (started)) RETURNING seq)
    SELECT coalesce(array_agg(seq), '{}') INTO charged FROM these;
    SELECT array_agg(seq) INTO ended FROM {s}.cancel WHERE seq = ANY (held);
    IF ended IS NOT NULL OR barred <> '{}' THEN
        ended := coalesce(ended, '{}') || barred;
        PERFORM {s}.end_jobs(ended, 'cancelled', cancelled_ttl, NULL, now_);
        IF flows IS NOT NULL THEN
            woken := {s}.members_left(flows, {s}.members_of(ended), cancelled_ttl, now_);
        END IF;
    END IF;
    PERFORM {s}.line_up(charged, false);
    PERFORM {s}.line_up(ARRAY(SELECT unnest(held) EXCEPT SELECT unnest(charged)), true);
END $$;

-- -- operators --------------------------------------------------------------------------------------------

-- Cancel a queued job at once, or mark a reserved one; return its state, the owner that is to be told, and the topics
-- of other jobs that are ready now.
CREATE OR REPLACE FUNCTION {s}.cancel_job(
    id_ text, force boolean, cancelled_ttl double precision, OUT state text, OUT told text, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    seq_ bigint;
    gone bigint[];
    flows bigint[];
BEGIN
    LOOP
        SELECT seq INTO seq_ FROM {s}.job WHERE id = id_;
        IF NOT FOUND THEN
            SELECT e.state INTO state FROM {s}.ended AS e WHERE e.id = id_ AND e.until > now_;
            state := coalesce(state, 'unknown');
            RETURN;
        END IF;
        IF seq_ < 0 THEN
            flows := {s}.lock_flows(ARRAY[seq_]);
            gone := {s}.dequeue_members(ARRAY[seq_]);
        ELSE
            gone := {s}.dequeue(ARRAY[seq_]);
        END IF;
        IF cardinality(gone) > 0 THEN
            PERFORM {s}.end_jobs(gone, 'cancelled', cancelled_ttl, NULL, now_);
            IF seq_ < 0 THEN
                woken := {s}.members_left(flows, gone, cancelled_ttl, now_);
            END IF;
            state := 'cancelled';
            RETURN;
        END IF;
        SELECT owner INTO told FROM {s}.reserved WHERE seq = seq_ FOR KEY SHARE;
        IF FOUND THEN
            INSERT INTO {s}.cancel VALUES (seq_, id_, force)
                ON CONFLICT (seq) DO UPDATE SET forced = {s}.cancel.forced OR excluded.forced;
            state := 'reserved';
            RETURN;
        END IF;
        IF EXISTS (SELECT FROM {s}.dead WHERE seq = seq_) THEN
            state := 'dead';
            RETURN;
        END IF; -- it has moved from one table to another meanwhile: look again
    END LOOP;
END $$;

-- Make dead and scheduled jobs ready now, but for dead members of flows; return their topics.
CREATE OR REPLACE FUNCTION {s}.requeue(ids text[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    seqs bigint[];
    dead_ bigint[];
    later bigint[];
    topics text[];
BEGIN
    SELECT array_agg(seq) INTO seqs FROM {s}.job WHERE id = ANY (ids);
    WITH gone AS (DELETE FROM {s}.dead WHERE seq = ANY (seqs) AND seq > 0 RETURNING seq)
    SELECT array_agg(seq) INTO dead_ FROM gone;
    WITH gone AS (DELETE FROM {s}.scheduled WHERE seq = ANY (seqs) AND due > now_ RETURNING seq)
    SELECT array_agg(seq) INTO later FROM gone;
    UPDATE {s}.job SET attempt = 0, redeliveries = 0, crashes = 0, deferrals = 0 WHERE seq = ANY (dead_);
    WITH new AS (UPDATE {s}.job SET since = now_ WHERE seq = ANY (dead_) OR seq = ANY (later) RETURNING topic)
    SELECT array_agg(topic) INTO topics FROM new;
    PERFORM {s}.line_up(coalesce(dead_, '{}') || later, false);
    RETURN coalesce(topics, '{}');
END $$;

CREATE OR REPLACE FUNCTION {s}.discard(ids text[], reason text, dead_max integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    seqs bigint[];
BEGIN
    SELECT {s}.dequeue(array_agg(seq)) INTO seqs FROM {s}.job WHERE id = ANY (ids) AND seq > 0;
    PERFORM {s}.make_dead(seq, reason, NULL, 0, dead_max, now_) FROM unnest(seqs) AS seq;
    RETURN coalesce(cardinality(seqs), 0);
END $$;

-- Delete up to `most` jobs of a topic that are no members of flows; return how many.
CREATE OR REPLACE FUNCTION {s}.purge(topic_ text, state text, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    seqs bigint[];
BEGIN
    IF state = 'ready' THEN
        WITH gone AS (
            DELETE FROM {s}.ready WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {s}.ready WHERE topic = topic_ AND seq > 0 LIMIT most FOR UPDATE SKIP LOCKED)) RETURNING seq)
        SELECT array_agg(seq) INTO seqs FROM gone;
    ELSIF state IN ('scheduled', 'due') THEN
        WITH gone AS (
            DELETE FROM {s}.scheduled WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {s}.scheduled WHERE topic = topic_ AND seq > 0 AND (due <= {s}.now_()) = (state = 'due') LIMIT most
                   FOR UPDATE SKIP LOCKED)) RETURNING seq)
        SELECT array_agg(seq) INTO seqs FROM gone;
    ELSIF state = 'entering' THEN
        seqs := {s}.leave_lines(ARRAY(
            SELECT seq FROM {s}.entering WHERE topic = topic_ AND seq > 0 LIMIT most FOR UPDATE SKIP LOCKED));
    ELSIF state = 'lined' THEN
        seqs := {s}.leave_lines(ARRAY(
            SELECT lined.seq FROM {s}.line JOIN {s}.lined ON lined.line = line.id WHERE topic = topic_ AND seq > 0
             LIMIT most FOR UPDATE OF lined SKIP LOCKED));
    ELSIF state = 'dead' THEN
        WITH gone AS (
            DELETE FROM {s}.dead WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {s}.dead WHERE topic = topic_ AND seq > 0 LIMIT most FOR UPDATE SKIP LOCKED)) RETURNING seq)
        SELECT array_agg(seq) INTO seqs FROM gone;
    END IF;
    IF coalesce(cardinality(seqs), 0) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM {s}.end_jobs(seqs, 'unknown', 0, NULL, 0);
    RETURN cardinality(seqs);
END $$;

CREATE OR REPLACE FUNCTION {s}.drop_dead(ids text[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    seqs bigint[];
BEGIN
    WITH gone AS (DELETE FROM {s}.dead AS d USING {s}.job AS j WHERE d.seq = j.seq AND j.seq > 0 AND j.id = ANY (ids) RETURNING d.seq)
    SELECT array_agg(seq) INTO seqs FROM gone;
    IF seqs IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM {s}.end_jobs(seqs, 'unknown', 0, NULL, 0);
    RETURN cardinality(seqs);
END $$;

-- -- waiting and keeping house ------------------------------------------------------------------------------

-- Whether one of these topics has ready jobs and is not paused, and the seconds until the next job is due.
CREATE OR REPLACE FUNCTION {s}.look(topics text[], OUT ready boolean, OUT due double precision)
LANGUAGE plpgsql AS $$
DECLARE
    clock double precision := {s}.now_();
    topic_ text;
    lines record;
BEGIN
    ready := false;
    FOREACH topic_ IN ARRAY topics LOOP
        CONTINUE WHEN EXISTS (SELECT FROM {s}.paused AS p WHERE p.topic = topic_);
        due := least(due, {s}.next_due(topic_, clock));
        IF EXISTS (SELECT FROM {s}.topic_lines AS l WHERE l.topic = topic_)
           OR EXISTS (SELECT FROM {s}.entering AS e WHERE e.topic = topic_) THEN
            SELECT * INTO lines FROM {s}.look_at_lines(topic_);
            ready := ready OR lines.ready;
            due := least(due, lines.due);
        ELSE
            ready := ready OR (SELECT since FROM {s}.first_ready(topic_, clock)) IS NOT NULL;
        END IF;
    END LOOP;
    due := due - {s}.now_();
END $$;

-- Note that a worker is about to sleep. It has to look again after this is committed.
CREATE OR REPLACE FUNCTION {s}.fall_asleep(topics text[], channel_ text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO {s}.sleeper SELECT t, channel_ FROM unnest(topics) AS t ORDER BY t ON CONFLICT DO NOTHING;
END $$;

CREATE OR REPLACE FUNCTION {s}.wake_up(channel_ text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM {s}.sleeper WHERE channel = channel_;
END $$;

-- Do what is due in any store. `todo`: of which other parts of housekeeping there is something to do; `dead_now`: the topics with
-- dead letters, which may be others than those that it was given.
CREATE OR REPLACE FUNCTION {s}.housekeep(
    most integer, lease double precision, outage_after double precision, dedup_window double precision,
    cancelled_ttl double precision, remembered double precision, dead_topics text[], dead_keep double precision[],
    OUT readied integer, OUT released integer, OUT dropped integer, OUT woken text[], OUT todo text[], OUT dead_now text[])
LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    last double precision;
    t text;
    n integer;
    o text;
    expired text[];
    topics text[];
BEGIN
    readied := 0;
    released := 0;
    dropped := 0;
    woken := '{}';
    FOR t IN SELECT * FROM {s}.topics_of('scheduled') LOOP
        n := {s}.ready_due(t, most, now_);
        IF n > 0 THEN
            readied := readied + n;
            woken := woken || t;
        END IF;
    END LOOP;
    SELECT value INTO last FROM {s}.meta WHERE key = 'last_housekeep' FOR UPDATE;
    UPDATE {s}.meta SET value = now_ WHERE key = 'last_housekeep';
    IF now_ - last > outage_after THEN
        UPDATE {s}.owner SET lease_until = greatest(lease_until, now_ + lease);
    END IF;
    UPDATE {s}.owner SET lease_until = now_ + 2 * lease WHERE lease_until > now_ + 2 * lease; -- the clock was set back
    expired := ARRAY(SELECT id FROM {s}.owner WHERE lease_until <= now_ LIMIT most FOR UPDATE SKIP LOCKED);
    IF expired <> '{}' THEN
        PERFORM {s}.lock_flows(ARRAY(SELECT seq FROM {s}.reserved WHERE owner = ANY (expired) AND seq < 0));
        FOREACH o IN ARRAY expired LOOP
            SELECT r.topics || r.woken INTO topics FROM {s}.release_owner(o, NULL, NULL, NULL, NULL, cancelled_ttl) AS r;
            woken := woken || topics;
        END LOOP;
        released := cardinality(expired);
    END IF;
    DELETE FROM {s}.push_request WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.push_request WHERE at <= now_ - dedup_window ORDER BY at LIMIT 10 * most FOR UPDATE SKIP LOCKED));
    DELETE FROM {s}.unique_key WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.unique_key WHERE until <= now_ ORDER BY until LIMIT 10 * most FOR UPDATE SKIP LOCKED));
    PERFORM {s}.sweep('cancel', most);
    PERFORM {s}.sweep('checkpoint', most);
    DELETE FROM {s}.waiter WHERE at < now_ - 60;
    DELETE FROM {s}.document WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.document WHERE until <= now_ LIMIT most FOR UPDATE SKIP LOCKED));
    PERFORM {s}.drop_notes(most);
    DELETE FROM {s}.ended WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.ended WHERE until <= now_ ORDER BY until LIMIT most FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    FOR n IN 1 .. cardinality(dead_topics) LOOP
        dropped := dropped + {s}.drop_oldest(dead_topics[n], now_ - dead_keep[n], 9223372036854775807, most, now_);
    END LOOP;
    dead_now := ARRAY(SELECT {s}.topics_of('dead'));
    todo := array_remove(ARRAY[
        CASE WHEN EXISTS (SELECT FROM {s}.topic_lines) OR EXISTS (SELECT FROM {s}.entering) OR EXISTS (SELECT FROM {s}.limit_state)
                  OR EXISTS (SELECT FROM {s}.limit_change) THEN 'lines' END,
        CASE WHEN EXISTS (SELECT FROM {s}.flow) THEN 'flows' END,
        CASE WHEN EXISTS (SELECT FROM {s}.dead_change) OR EXISTS (SELECT FROM {s}.dead WHERE fingerprint = '') THEN 'letters' END,
        CASE WHEN EXISTS (SELECT FROM {s}.statistics WHERE span = 60 AND at <= now_ - 86400)
                  OR EXISTS (SELECT FROM {s}.statistics WHERE span = 300 AND at <= now_ - 86400)
                  OR EXISTS (SELECT FROM {s}.statistics WHERE span = 3600 AND at <= now_ - 30 * 86400)
                  OR EXISTS (SELECT FROM {s}.statistics_request WHERE at <= now_ - remembered) THEN 'statistics' END,
        CASE WHEN EXISTS (SELECT FROM {s}.pushed) THEN 'counts' END,
        CASE WHEN EXISTS (SELECT FROM {s}.size) THEN 'sizes' END], NULL);
END $$;

-- Delete the rows of jobs that are gone from a table with one row for some jobs: of the next `most` after those of the round before,
-- which this session remembers.
CREATE OR REPLACE FUNCTION {s}.sweep(name text, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    after_ bigint := ({s}.remembered() ->> ('swept/' || name))::bigint;
    upto bigint;
    n integer;
BEGIN
    EXECUTE format('SELECT max(seq), count(*) FROM (
                        SELECT seq FROM {s}.%I WHERE seq > coalesce($1, -9223372036854775808) ORDER BY seq LIMIT $2) AS next', name)
       INTO upto, n USING after_, most;
    IF n > 0 THEN
        EXECUTE format('DELETE FROM {s}.%I AS c WHERE seq > coalesce($1, -9223372036854775808) AND seq <= $2
                           AND NOT EXISTS (SELECT FROM {s}.job AS j WHERE j.seq = c.seq)', name) USING after_, upto;
    END IF;
    IF n = most OR after_ IS NOT NULL THEN
        PERFORM {s}.remember('swept/' || name, CASE WHEN n = most THEN to_jsonb(upto) END);
    END IF;
END $$;

-- The topics in a table, each found in the index from the one before. While vacuum is held back, they may be those of a moment
-- before, as said in low_water.sql.
CREATE OR REPLACE FUNCTION {s}.topics_of(name text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    t text := '';
    found_ text[] := '{}';
    memory jsonb := {s}.remembered() -> ('topics/' || name);
    began double precision := extract(epoch FROM clock_timestamp());
    last double precision := (memory ->> 'at')::double precision;
    index_ regclass;
    walked_ bigint;
BEGIN
    IF began BETWEEN last AND last + greatest(1, 10 * (memory ->> 'took')::double precision) THEN
        RETURN QUERY SELECT jsonb_array_elements_text(memory -> 'topics');
        RETURN;
    END IF;
    index_ := CASE name WHEN 'line' THEN '{s}.line_topic_fair_rank_key_limits_key' ELSE format('{s}.%I', name || '_pkey') END;
    walked_ := pg_stat_get_xact_tuples_returned(index_);
    LOOP
        EXECUTE format('SELECT topic FROM {s}.%I WHERE topic > $1 ORDER BY topic LIMIT 1', name) INTO t USING t;
        EXIT WHEN t IS NULL;
        found_ := found_ || t;
    END LOOP;
    IF pg_stat_get_xact_tuples_returned(index_) - walked_ - cardinality(found_) > 1000 THEN
        PERFORM {s}.remember('topics/' || name, jsonb_build_object(
            'at', began, 'took', extract(epoch FROM clock_timestamp()) - began, 'topics', to_jsonb(found_)));
    ELSIF memory IS NOT NULL THEN
        PERFORM {s}.remember('topics/' || name, NULL);
    END IF;
    RETURN QUERY SELECT unnest(found_);
END $$;

-- -- documents ----------------------------------------------------------------------------------------------

-- Change a document, or delete it if `data_` is NULL. Returns the answer: a version, null if it was not as expected, and for a
-- deletion true or false; "full" if it would be one document too many of its kind. Changes of one kind wait for one another.
CREATE OR REPLACE FUNCTION {s}.change_document(
    kind_ text, name_ text, data_ bytea, request_ text, expected bigint, ttl double precision, most integer)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    answer jsonb;
    present bigint;
    number bigint;
BEGIN
    INSERT INTO {s}.push_request VALUES (request_, now_, '{}') ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN (SELECT conflicts -> 'answer' FROM {s}.push_request WHERE request = request_);
    END IF;
    INSERT INTO {s}.document_kind VALUES (kind_, 0) ON CONFLICT DO NOTHING;
    SELECT version INTO number FROM {s}.document_kind WHERE kind = kind_ FOR UPDATE;
    SELECT version INTO present FROM {s}.document WHERE kind = kind_ AND name = name_ AND (until IS NULL OR until > now_);
    present := coalesce(present, 0);
    IF expected IS NOT NULL AND expected <> present OR data_ IS NULL AND present = 0 THEN
        answer := CASE WHEN data_ IS NULL THEN 'false' ELSE 'null' END;
    ELSIF data_ IS NULL THEN
        DELETE FROM {s}.document WHERE kind = kind_ AND name = name_;
        UPDATE {s}.document_kind SET version = version + 1 WHERE kind = kind_;
        answer := 'true';
    ELSE
        IF NOT EXISTS (SELECT FROM {s}.document WHERE kind = kind_ AND name = name_)
            AND (SELECT count(*) FROM {s}.document WHERE kind = kind_) >= most THEN
            DELETE FROM {s}.document WHERE kind = kind_ AND until <= now_;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'too many documents' USING ERRCODE = 'JOBS2';
            END IF;
        END IF;
        UPDATE {s}.document_kind SET version = version + 1 WHERE kind = kind_;
        INSERT INTO {s}.document VALUES (kind_, name_, data_, number + 1, now_, now_ + ttl)
            ON CONFLICT (kind, name) DO UPDATE SET data = excluded.data, version = excluded.version,
                                                   changed_at = excluded.changed_at, until = excluded.until;
        answer := to_jsonb(number + 1);
    END IF;
    UPDATE {s}.push_request SET conflicts = jsonb_build_object('answer', answer) WHERE request = request_;
    RETURN answer;
END $$;

-- Push as `push` does if a document has a version; otherwise push nothing, and return NULL.
CREATE OR REPLACE FUNCTION {s}.push_guarded(
    kind_ text, name_ text, version_ bigint, request_ text, messages jsonb, payloads bytea[], plain boolean, lined boolean,
    cancelled_ttl double precision)
RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.push_request WHERE request = request_) THEN
        INSERT INTO {s}.document_kind VALUES (kind_, 0) ON CONFLICT DO NOTHING;
        PERFORM FROM {s}.document_kind WHERE kind = kind_ FOR SHARE; -- no change is made before this push is stored
        IF version_ <> coalesce((SELECT version FROM {s}.document WHERE kind = kind_ AND name = name_
                                    AND (until IS NULL OR until > {s}.now_())), 0) THEN
            RETURN NULL;
        END IF;
    END IF;
    RETURN {s}.push(request_, messages, payloads, plain, lined, false, cancelled_ttl);
END $$;
