-- Lines: the ready jobs that have limits, or a key in a fair topic. See `backends/limits.py` for the rules.
--
-- Whoever makes such a job ready, takes it away, or ends its reservation only inserts into the inboxes `entering`, `leaving`
-- and `limit_change`: so it waits for nobody, and a transaction of a caller that stays open holds nobody up. Lines, limits and
-- turns are changed only under one lock, by `serve` when it reserves, and by others as said there. They hold it until their
-- commit, which does not wait for the disk, and meanwhile never wait for a row: so no two steps can wait for one another.
--
-- The functions that begin such a step plan without sequential scans, because the planner knows nothing of tables that are new,
-- or were empty when it looked last.

-- Make jobs ready, which are in no other table: the plain ones at once, the others by sending them to their lines. In a fair
-- topic, the keys of those that were reserved, but not started, are served next.
CREATE OR REPLACE FUNCTION {s}.line_up(seqs bigint[], unstarted boolean) RETURNS void LANGUAGE sql AS $$
    WITH these AS (
        SELECT j.topic, j.rank, j.since, j.seq,
               j.limits IS NOT NULL OR coalesce(f.fair, false) AND (unstarted OR j.key IS NOT NULL) AS lined
          FROM {s}.job AS j LEFT JOIN {s}.topic_lines AS f ON f.topic = j.topic WHERE j.seq = ANY (seqs)),
    others AS (
        INSERT INTO {s}.entering (topic, n, seq, rank, since, front)
        SELECT topic, nextval('{s}.arrival'), seq, rank, since, unstarted
          FROM (SELECT * FROM these WHERE lined ORDER BY rank, since, seq) AS these),
    plain AS (
        INSERT INTO {s}.ready SELECT topic, rank, since, seq FROM these WHERE NOT lined)
    SELECT CASE WHEN min(since) < {s}.now_() - 0.5 THEN nextval('{s}.overtaken') END FROM these WHERE NOT lined
$$;

-- Store messages, of which one has limits or a key; see `insert_jobs`.
CREATE OR REPLACE FUNCTION {s}.insert_lined(messages jsonb, payloads bytea[], now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH new AS (
        INSERT INTO {s}.job (seq, id, topic, rank, since, pushed_at, key, limits, payload)
        SELECT nextval('{s}.arrival'), i, t, r, now_ + d, now_, k, l, p FROM (
            SELECT * FROM ROWS FROM (
                jsonb_to_recordset(messages) AS (i text, t text, r smallint, d double precision, k text, l text[]),
                unnest(payloads)) WITH ORDINALITY AS m (i, t, r, d, k, l, p, n) ORDER BY n) AS m
        ON CONFLICT (id) DO NOTHING
        RETURNING topic, rank, since, seq, key, limits),
    later AS (
        INSERT INTO {s}.scheduled
        SELECT topic, since, seq, rank, limits IS NOT NULL OR key IS NOT NULL FROM new WHERE since > now_),
    these AS (
        SELECT n.*, n.limits IS NOT NULL OR n.key IS NOT NULL AND coalesce(f.fair, false) AS lined
          FROM new AS n LEFT JOIN {s}.topic_lines AS f ON f.topic = n.topic WHERE n.since <= now_),
    others AS (
        INSERT INTO {s}.entering (topic, n, seq, rank, since, front)
        SELECT topic, nextval('{s}.arrival'), seq, rank, since, false
          FROM (SELECT * FROM these WHERE lined ORDER BY seq) AS these)
    INSERT INTO {s}.ready SELECT topic, rank, since, seq FROM these WHERE NOT lined;
END $$;

-- Take jobs out of their lines; return those that were in one, or on the way to it.
CREATE OR REPLACE FUNCTION {s}.leave_lines(seqs bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    coming bigint[];
    gone bigint[];
BEGIN
    WITH gone AS (DELETE FROM {s}.entering WHERE seq = ANY (seqs) RETURNING seq)
    SELECT array_agg(seq) INTO coming FROM gone;
    WITH gone AS (DELETE FROM {s}.lined WHERE seq = ANY (seqs) RETURNING line, seq),
    noted AS (INSERT INTO {s}.leaving SELECT line, seq FROM gone)
    SELECT array_agg(seq) INTO gone FROM gone;
    RETURN coalesce(coming, '{}') || coalesce(gone, '{}');
END $$;

-- Free the slots of reservations that ended; those that did not run give their tokens back.
CREATE OR REPLACE FUNCTION {s}.free(slots jsonb[], ran boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.limit_change
    SELECT each.key, count(*), CASE WHEN ran THEN 0 ELSE sum(each.value::double precision) END, 0
      FROM unnest(slots) AS held, jsonb_each(held) AS each GROUP BY each.key;
END $$;

-- Free the slots of reservations of an owner that are about to be settled.
CREATE OR REPLACE FUNCTION {s}.free_held(owner_ text, seqs bigint[], requests text[], ran boolean[])
RETURNS void LANGUAGE sql AS $$
    SELECT {s}.free(array_agg(held.slots), held.ran) FROM (
        SELECT r.slots, t.ran FROM {s}.reserved AS r JOIN unnest(seqs, requests, ran) AS t (seq, request, ran)
            ON r.seq = t.seq AND r.request = t.request
         WHERE r.owner = owner_ AND r.slots IS NOT NULL FOR UPDATE OF r) AS held GROUP BY held.ran
$$;

-- Settle done jobs as `settle_done` does, and free their slots.
CREATE OR REPLACE FUNCTION {s}.settle_holding(
    owner_ text, request_ text, before text, again boolean, seqs bigint[], requests text[], ran boolean[])
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM {s}.owner WHERE id = owner_ FOR KEY SHARE;
    PERFORM {s}.free_held(owner_, seqs, requests, ran);
    RETURN {s}.settle_done(owner_, request_, before, again, seqs, requests);
END $$;

-- The jobs in the lines of a topic, and when the oldest head of an open one became ready.
CREATE OR REPLACE FUNCTION {s}.lines_of(topic_ text, OUT ready bigint, OUT limited bigint, OUT oldest double precision)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(t.ready, 0) + (SELECT count(*) FROM {s}.entering AS e WHERE e.topic = topic_) - coalesce(gone.ready, 0),
           coalesce(t.limited, 0) - coalesce(gone.limited, 0),
           least((SELECT min(l.head_since) FROM {s}.line AS l WHERE l.topic = topic_ AND l.filed_under IS NULL),
                 (SELECT min(e.since) FROM {s}.entering AS e WHERE e.topic = topic_))
      FROM (SELECT count(*) FILTER (WHERE l.filed_under IS NULL) AS ready, count(l.filed_under) AS limited
              FROM {s}.leaving AS g JOIN {s}.line AS l ON l.id = g.line WHERE l.topic = topic_) AS gone
      LEFT JOIN {s}.topic_lines AS t ON t.topic = topic_
$$;

-- Close limits, each for a number of seconds.
CREATE OR REPLACE FUNCTION {s}.close_limits(names text[], seconds double precision[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO {s}.limit_change SELECT c.name, 0, 0, {s}.now_() + c.seconds FROM unnest(names, seconds) AS c (name, seconds)
$$;

-- -- under the lock of lines --------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION {s}.lock_lines() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('{s} lines', 0))
$$;

-- The limits in which a job counts; `fair`: its topic is fair.
CREATE OR REPLACE FUNCTION {s}.counted(limits text[], topic text, key text, fair boolean)
RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN fair THEN limits || ('key/' || topic || ':' || key) ELSE limits END
$$;

-- Note when the rate or the closure of a limit ends, if it is not a slot that has to be freed first.
CREATE OR REPLACE FUNCTION {s}.look_later(topic_ text, name_ text, at_ double precision) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF at_ < 'infinity' THEN
        INSERT INTO {s}.opening AS o VALUES (topic_, name_, at_)
            ON CONFLICT (topic, name) DO UPDATE SET at = excluded.at WHERE o.at <> excluded.at;
        IF FOUND THEN
            PERFORM {s}.wake(ARRAY[topic_], 1); -- a waiting worker has to know when to look: this one may be busy then
        END IF;
    END IF;
END $$;

-- Open a closed line, and wake a worker for it.
CREATE OR REPLACE FUNCTION {s}.open_line(id_ bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    l record;
BEGIN
    SELECT * INTO l FROM {s}.line WHERE id = id_;
    UPDATE {s}.line SET filed_under = NULL WHERE id = id_;
    UPDATE {s}.topic_lines SET ready = ready + l.size, limited = limited - l.size WHERE topic = l.topic;
    UPDATE {s}.limit_state SET waiting = waiting - l.size WHERE name = l.filed_under;
    PERFORM {s}.wake(ARRAY[l.topic], 1);
END $$;

-- Open the best lines of a topic that are filed under a limit, if it has room; otherwise note when to look again.
--
-- If a limit has room, and lines of a topic and of one kind (fair or not) are filed under it, then an open line of this topic
-- and kind with this limit is at least as good as they are. So the best open line is the best line that can be served. This
-- restores it when a limit gets room, and when such an open line is served, removed, or filed elsewhere.
CREATE OR REPLACE FUNCTION {s}.advance(topic_ text, limit_ text, now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    best bigint[];
    at_ double precision;
    n bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.limit_state WHERE name = limit_ AND waiting > 0) THEN
        RETURN;
    END IF;
    best := ARRAY(SELECT id FROM {s}.line WHERE filed_under = limit_ AND topic = topic_ AND NOT fair
                   ORDER BY head_rank, head_since, head_seq LIMIT 1);
    IF (SELECT fair FROM {s}.topic_lines WHERE topic = topic_) THEN
        best := best || ARRAY(SELECT id FROM {s}.line WHERE filed_under = limit_ AND topic = topic_ AND fair
                               ORDER BY head_rank, turn, head_since, head_seq LIMIT 1);
    ELSE
        best := best || ARRAY(SELECT id FROM {s}.line WHERE filed_under = limit_ AND topic = topic_ AND fair
                               ORDER BY head_rank, head_since, head_seq LIMIT 1);
    END IF;
    IF cardinality(best) = 0 THEN
        RETURN;
    END IF;
    at_ := {s}.room_at(limit_, now_);
    IF at_ > now_ THEN
        PERFORM {s}.look_later(topic_, limit_, at_);
        RETURN;
    END IF;
    FOREACH n IN ARRAY best LOOP
        PERFORM {s}.open_line(n);
    END LOOP;
END $$;

-- Advance the limits of a line that does not stand where it did among the open lines.
CREATE OR REPLACE FUNCTION {s}.advance_all(
    topic_ text, key_ text, limits text[], except_for text, now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    each text;
BEGIN
    FOR each IN SELECT name FROM {s}.limit_state
                 WHERE name = ANY ({s}.counted(limits, topic_, key_, true)) AND waiting > 0
                   AND name IS DISTINCT FROM except_for LOOP
        PERFORM {s}.advance(topic_, each, now_);
    END LOOP;
END $$;

-- File an open line under a limit without room.
CREATE OR REPLACE FUNCTION {s}.close_line(id_ bigint, limit_ text, at_ double precision, now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    l record;
BEGIN
    UPDATE {s}.line SET filed_under = limit_ WHERE id = id_ RETURNING * INTO l;
    UPDATE {s}.topic_lines SET ready = ready - l.size, limited = limited + l.size WHERE topic = l.topic;
    INSERT INTO {s}.limit_state AS t (name, waiting) VALUES (limit_, l.size)
        ON CONFLICT (name) DO UPDATE SET waiting = t.waiting + excluded.waiting;
    PERFORM {s}.look_later(l.topic, limit_, at_);
    PERFORM {s}.advance_all(l.topic, l.key, l.limits, limit_, now_);
END $$;

-- Open closed lines that have come before others, if the limit under which one is filed has room.
CREATE OR REPLACE FUNCTION {s}.open_if_room(ids bigint[], now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    l record;
BEGIN
    FOR l IN SELECT id, filed_under FROM {s}.line WHERE id = ANY (ids) AND filed_under IS NOT NULL LOOP
        IF {s}.room_at(l.filed_under, now_) <= now_ THEN
            PERFORM {s}.open_line(l.id);
        END IF;
    END LOOP;
END $$;

-- Open the best lines that are filed under a limit, in each topic, if it has room.
CREATE OR REPLACE FUNCTION {s}.reopen(limit_ text, now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t text := '';
BEGIN
    LOOP
        SELECT topic INTO t FROM {s}.line WHERE filed_under = limit_ AND topic > t ORDER BY topic LIMIT 1;
        EXIT WHEN NOT FOUND;
        PERFORM {s}.advance(t, limit_, now_);
    END LOOP;
END $$;

-- -- the inboxes ------------------------------------------------------------------------------------------

-- Free slots, close limits, and count what has left lines; of each up to 1,000. Open lines that got room.
CREATE OR REPLACE FUNCTION {s}.apply_changes(now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    names text[];
    each text;
    c record;
BEGIN
    WITH gone AS (
        DELETE FROM {s}.limit_change WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.limit_change LIMIT 1000 FOR UPDATE SKIP LOCKED))
        RETURNING *),
    sums AS (
        SELECT name, sum(freed) AS freed, sum(debt) AS debt, max(closed_until) AS closed_until FROM gone GROUP BY name),
    freed AS (
        UPDATE {s}.limit_state AS t SET used = greatest(0, t.used - s.freed), tat = t.tat - s.debt,
               closed_until = greatest(t.closed_until, s.closed_until)
          FROM sums AS s WHERE t.name = s.name),
    closed AS (
        INSERT INTO {s}.limit_state (name, closed_until) SELECT name, closed_until FROM sums AS s
         WHERE closed_until > 0 AND NOT EXISTS (SELECT FROM {s}.limit_state AS t WHERE t.name = s.name))
    SELECT array_agg(name) INTO names FROM sums;
    IF names IS NOT NULL THEN
        DELETE FROM {s}.limit_state
         WHERE name = ANY (names) AND used = 0 AND waiting = 0 AND greatest(tat, closed_until) <= now_;
        FOR each IN SELECT name FROM {s}.limit_state WHERE name = ANY (names) AND waiting > 0 LOOP
            PERFORM {s}.reopen(each, now_);
        END LOOP;
        FOR each IN SELECT name FROM unnest(names) AS name WHERE starts_with(name, 'key/') AND right(name, 1) = ':' LOOP
            PERFORM {s}.wake(ARRAY[substr(each, 5, length(each) - 5)], 1); -- plain jobs, which are never filed, count in it
        END LOOP;
    END IF;
    FOR c IN WITH gone AS (
                 DELETE FROM {s}.leaving WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.leaving LIMIT 1000 FOR UPDATE SKIP LOCKED))
                 RETURNING line, seq)
             SELECT line, count(*) AS size, array_agg(seq) AS seqs FROM gone GROUP BY line LOOP
        PERFORM {s}.shorten(c.line, c.size, c.seqs, now_);
    END LOOP;
END $$;

-- Count jobs that have left a line; a line without jobs is deleted.
CREATE OR REPLACE FUNCTION {s}.shorten(line_ bigint, gone bigint, seqs bigint[], now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    l record;
    head record;
BEGIN
    SELECT * INTO l FROM {s}.line WHERE id = line_;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF l.filed_under IS NULL THEN
        UPDATE {s}.topic_lines SET ready = ready - gone WHERE topic = l.topic;
    ELSE
        UPDATE {s}.topic_lines SET limited = limited - gone WHERE topic = l.topic;
        UPDATE {s}.limit_state SET waiting = waiting - gone WHERE name = l.filed_under;
    END IF;
    IF l.size <= gone THEN
        DELETE FROM {s}.line WHERE id = line_;
    ELSE
        UPDATE {s}.line SET size = size - gone WHERE id = line_;
        IF NOT l.head_seq = ANY (seqs) THEN
            RETURN;
        END IF;
        SELECT rank, since, seq INTO head FROM {s}.lined WHERE line = line_ ORDER BY rank, since, seq LIMIT 1;
        IF FOUND THEN
            UPDATE {s}.line SET head_rank = head.rank, head_since = head.since, head_seq = head.seq WHERE id = line_;
        END IF;
    END IF;
    IF l.filed_under IS NULL THEN
        PERFORM {s}.advance_all(l.topic, l.key, l.limits, NULL, now_);
    END IF;
END $$;

-- Put up to `most` jobs into their lines, or into the plain one if they need none; return whether there may be more.
--
-- A new line is filed if one of its limits has no room. A key without lines goes to the end of the turn.
CREATE OR REPLACE FUNCTION {s}.enter_lines(topic_ text, most integer, now_ double precision) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    t record;
    count_ bigint;
    keys bigint;
    opened bigint;
    closed bigint;
    better bigint[];
    filed text[];
    sizes bigint[];
    later text[];
    ranks smallint[];
    fronts text[];
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.entering WHERE topic = topic_) THEN
        RETURN false;
    END IF;
    INSERT INTO {s}.topic_lines (topic) VALUES (topic_) ON CONFLICT DO NOTHING;
    SELECT * INTO t FROM {s}.topic_lines WHERE topic = topic_;
    WITH gone AS (
        DELETE FROM {s}.entering WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {s}.entering WHERE topic = topic_ ORDER BY n LIMIT most FOR UPDATE SKIP LOCKED))
        RETURNING seq, n, front),
    jobs AS MATERIALIZED (
        SELECT g.n, g.front, j.seq, j.rank, j.since, coalesce(j.key, '') AS key, coalesce(j.limits, '{}') AS limits,
               j.limits IS NOT NULL OR t.fair AND j.key IS NOT NULL AS lined
          FROM gone AS g JOIN {s}.job AS j ON j.seq = g.seq),
    plain AS (
        INSERT INTO {s}.ready SELECT topic_, rank, since, seq FROM jobs WHERE NOT lined),
    placed AS MATERIALIZED ( -- `nth` in its line
        SELECT p.*, row_number() OVER (PARTITION BY of_rank, of_key, limits ORDER BY rank, since, seq) AS nth,
               count(*) OVER (PARTITION BY of_rank, of_key, limits) AS size,
               min(p.n) OVER (PARTITION BY of_rank, of_key) AS came
          FROM (SELECT jobs.*, CASE WHEN t.fair THEN rank ELSE 0::smallint END AS of_rank,
                       CASE WHEN t.fair THEN key ELSE '' END AS of_key
                  FROM jobs WHERE lined) AS p),
    located AS MATERIALIZED ( -- windows and lookups, since a join of rows that the planner expects to be few would take n * n steps
        SELECT p.*, l.id IS NULL AS is_new, l.filed_under,
               (p.rank, p.since, p.seq) < (l.head_rank, l.head_since, l.head_seq) AS is_better,
               CASE WHEN p.nth = 1 THEN coalesce(l.id, nextval('{s}.line_id')) END AS id,
               CASE WHEN p.nth = 1 AND l.id IS NULL THEN (
                   SELECT r.blocker FROM {s}.first_without_room(
                              {s}.counted(p.limits, topic_, of_key, t.fair AND t.max_per_key IS NOT NULL), now_) AS r)
               END AS blocker,
               t.fair AND p.nth = 1 AND l.id IS NULL AND of_key <> '' AND (
                   SELECT q.id FROM {s}.line AS q WHERE q.topic = topic_ AND q.fair AND q.rank = of_rank AND q.key = of_key
                    LIMIT 1) IS NULL AS is_new_key
          FROM placed AS p LEFT JOIN LATERAL (
               SELECT * FROM {s}.line AS q
                WHERE p.nth = 1 AND q.topic = topic_ AND q.fair = t.fair AND q.rank = of_rank AND q.key = of_key
                  AND q.limits = p.limits
                LIMIT 1) AS l ON true),
    heads AS MATERIALIZED (
        SELECT *, dense_rank() OVER (PARTITION BY is_new_key ORDER BY came) AS place FROM located WHERE nth = 1),
    put AS (
        INSERT INTO {s}.line AS l (
            id, topic, fair, rank, key, limits, size, bounded, filed_under, turn, head_rank, head_since, head_seq)
        SELECT h.id, topic_, t.fair, of_rank, of_key, h.limits, h.size,
               CASE WHEN is_new THEN {s}.is_bounded(h.limits) ELSE false END, blocker,
               CASE WHEN NOT t.fair OR NOT is_new THEN 0
                    WHEN is_new_key THEN t.turn + place
                    WHEN of_key = '' THEN
                        coalesce((SELECT q.turn FROM {s}.keyless_turn AS q WHERE q.topic = topic_ AND q.rank = of_rank), 0)
                    ELSE (SELECT q.turn FROM {s}.line AS q
                           WHERE q.topic = topic_ AND q.fair AND q.rank = of_rank AND q.key = of_key LIMIT 1) END,
               h.rank, h.since, h.seq
          FROM heads AS h
        ON CONFLICT (topic, fair, rank, key, limits) DO UPDATE SET size = l.size + excluded.size,
            head_rank = CASE WHEN (excluded.head_rank, excluded.head_since, excluded.head_seq)
                                < (l.head_rank, l.head_since, l.head_seq) THEN excluded.head_rank ELSE l.head_rank END,
            head_since = CASE WHEN (excluded.head_rank, excluded.head_since, excluded.head_seq)
                                 < (l.head_rank, l.head_since, l.head_seq) THEN excluded.head_since ELSE l.head_since END,
            head_seq = CASE WHEN (excluded.head_rank, excluded.head_since, excluded.head_seq)
                               < (l.head_rank, l.head_since, l.head_seq) THEN excluded.head_seq ELSE l.head_seq END),
    stand AS (
        INSERT INTO {s}.lined (seq, line, rank, since)
        SELECT seq, max(id) OVER (PARTITION BY of_rank, of_key, limits), rank, since FROM located),
    unstarted AS (
        SELECT jobs.rank, jobs.key, max(jobs.n) AS last FROM jobs WHERE t.fair AND front GROUP BY jobs.rank, jobs.key)
    SELECT (SELECT count(*) FROM gone), count(DISTINCT came) FILTER (WHERE is_new_key),
           coalesce(sum(size) FILTER (WHERE coalesce(filed_under, blocker) IS NULL), 0),
           coalesce(sum(size) FILTER (WHERE coalesce(filed_under, blocker) IS NOT NULL), 0),
           array_agg(id) FILTER (WHERE filed_under IS NOT NULL AND is_better),
           array_agg(coalesce(filed_under, blocker)) FILTER (WHERE coalesce(filed_under, blocker) IS NOT NULL),
           array_agg(size) FILTER (WHERE coalesce(filed_under, blocker) IS NOT NULL),
           array_agg(DISTINCT blocker),
           (SELECT array_agg(rank ORDER BY last) FROM unstarted), (SELECT array_agg(key ORDER BY last) FROM unstarted)
      INTO count_, keys, opened, closed, better, filed, sizes, later, ranks, fronts
      FROM heads;
    UPDATE {s}.topic_lines SET ready = ready + opened, limited = limited + closed, turn = turn + keys WHERE topic = topic_;
    IF filed IS NOT NULL THEN
        INSERT INTO {s}.limit_state AS s (name, waiting)
        SELECT name, sum(size) FROM unnest(filed, sizes) AS f (name, size) GROUP BY name
            ON CONFLICT (name) DO UPDATE SET waiting = s.waiting + excluded.waiting;
        PERFORM {s}.look_later(topic_, name, {s}.room_at(name, now_)) FROM unnest(later) AS name WHERE name IS NOT NULL;
        PERFORM {s}.open_if_room(better, now_);
    END IF;
    IF ranks IS NOT NULL THEN
        PERFORM {s}.to_front(topic_, ranks, fronts, now_);
    END IF;
    RETURN count_ >= most;
END $$;

-- -- looking again ----------------------------------------------------------------------------------------

-- Look at limits whose rate or closure has ended, or that were defined anew; return whether there are more than `most`.
CREATE OR REPLACE FUNCTION {s}.look_again(topic_ text, most integer, now_ double precision) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    name_ text;
    names text[];
    remaining integer := most;
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.opening WHERE topic = topic_ AND at <= now_) THEN
        RETURN false;
    END IF;
    WITH gone AS (
        DELETE FROM {s}.opening WHERE topic = topic_ AND name IN (
            SELECT name FROM {s}.opening WHERE topic = topic_ AND at <= now_ ORDER BY at LIMIT most) RETURNING name)
    SELECT array_agg(name) INTO names FROM gone;
    remaining := most - cardinality(names);
    FOREACH name_ IN ARRAY names LOOP
        IF strpos(name_, E'\n') > 0 THEN
            remaining := {s}.look_at_all(topic_, name_, greatest(1, remaining), now_);
        ELSE
            PERFORM {s}.advance(topic_, name_, now_);
        END IF;
    END LOOP;
    RETURN remaining <= 0;
END $$;

-- Look at up to `most` values of a limit that lines of a topic are filed under, after one; return how many may follow.
--
-- `note` is the name of the limit, or nothing for all limits, then a line break and the last value that was looked at. A
-- definition may concern any number of values, so each step leaves a note for the next one.
CREATE OR REPLACE FUNCTION {s}.look_at_all(topic_ text, note text, most integer, now_ double precision)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    name_ text := split_part(note, E'\n', 1);
    last text := split_part(note, E'\n', 2);
    remaining integer := most;
BEGIN
    LOOP
        IF name_ = '' THEN
            SELECT filed_under INTO last FROM {s}.line WHERE filed_under > last AND topic = topic_ ORDER BY filed_under LIMIT 1;
        ELSE
            SELECT filed_under INTO last FROM {s}.line
             WHERE filed_under > last AND filed_under < name_ || ';' AND topic = topic_ ORDER BY filed_under LIMIT 1;
        END IF;
        EXIT WHEN NOT FOUND;
        PERFORM {s}.advance(topic_, last, now_);
        remaining := remaining - 1;
        IF remaining <= 0 THEN
            PERFORM {s}.look_later(topic_, name_ || E'\n' || last, now_);
            EXIT;
        END IF;
    END LOOP;
    RETURN remaining;
END $$;

-- -- turns ------------------------------------------------------------------------------------------------

-- Put keys at the front of the turn, the last one first.
CREATE OR REPLACE FUNCTION {s}.to_front(topic_ text, ranks smallint[], keys text[], now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    front_ bigint;
    closed bigint[];
BEGIN
    UPDATE {s}.topic_lines SET front = front - cardinality(keys) WHERE topic = topic_
        RETURNING front + cardinality(keys) INTO front_;
    INSERT INTO {s}.keyless_turn SELECT topic_, f.rank, front_ - f.n FROM unnest(ranks, keys) WITH ORDINALITY AS f (rank, key, n)
         WHERE f.key = ''
        ON CONFLICT (topic, rank) DO UPDATE SET turn = excluded.turn;
    WITH moved AS (
        UPDATE {s}.line AS l SET turn = front_ - f.n FROM unnest(ranks, keys) WITH ORDINALITY AS f (rank, key, n)
         WHERE l.topic = topic_ AND l.fair AND l.rank = f.rank AND l.key = f.key RETURNING l.id, l.filed_under)
    SELECT array_agg(id) INTO closed FROM moved WHERE filed_under IS NOT NULL;
    IF closed IS NOT NULL THEN
        PERFORM {s}.open_if_room(closed, now_);
    END IF;
END $$;

-- -- definitions ------------------------------------------------------------------------------------------

-- Look at the lines of a limit that has another definition.
CREATE OR REPLACE FUNCTION {s}.changed(name_ text, now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t text;
BEGIN
    FOR t IN SELECT topic FROM {s}.topic_lines WHERE limited > 0 LOOP
        PERFORM {s}.look_later(t, name_, now_);
        PERFORM {s}.look_later(t, name_ || E'\n' || name_ || ':', now_);
    END LOOP;
END $$;

-- Store definitions of limits (name: concurrency, interval, burst) and rules of topics (topic: fair, most per key).
CREATE OR REPLACE FUNCTION {s}.define_limits(limits jsonb, topics jsonb) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    now_ double precision := {s}.now_();
    d record;
BEGIN
    PERFORM {s}.lock_lines();
    FOR d IN SELECT key AS name, (value ->> 0)::integer AS concurrency, (value ->> 1)::double precision AS every,
                    (value ->> 2)::integer AS burst FROM jsonb_each(limits) LOOP
        INSERT INTO {s}.limit_definition AS l VALUES (d.name, false, d.concurrency, d.every, d.burst)
            ON CONFLICT (name, override) DO UPDATE
                SET concurrency = excluded.concurrency, every = excluded.every, burst = excluded.burst
              WHERE (l.concurrency, l.every, l.burst) IS DISTINCT FROM (excluded.concurrency, excluded.every, excluded.burst);
        IF FOUND THEN
            PERFORM {s}.changed(d.name, now_);
        END IF;
    END LOOP;
    FOR d IN SELECT key AS topic, (value ->> 0)::boolean AS fair, (value ->> 1)::integer AS most FROM jsonb_each(topics) LOOP
        IF d.fair OR EXISTS (SELECT FROM {s}.topic_lines WHERE topic = d.topic) THEN
            INSERT INTO {s}.topic_lines AS t (topic, fair, max_per_key) VALUES (d.topic, d.fair, d.most)
                ON CONFLICT (topic) DO UPDATE SET fair = excluded.fair, max_per_key = excluded.max_per_key
                  WHERE (t.fair, t.max_per_key) IS DISTINCT FROM (excluded.fair, excluded.max_per_key);
            IF FOUND THEN
                PERFORM {s}.look_later(d.topic, E'\n', now_);
                PERFORM {s}.wake(ARRAY[d.topic], 1);
            END IF;
        END IF;
    END LOOP;
END $$;

-- Override the definition of a limit or of one value; without a `burst_`, reset it, and end closures by jobs.
CREATE OR REPLACE FUNCTION {s}.override_limit(name_ text, concurrency_ integer, every_ double precision, burst_ integer)
RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    now_ double precision := {s}.now_();
BEGIN
    PERFORM {s}.lock_lines();
    PERFORM {s}.apply_changes(now_);
    IF burst_ IS NULL THEN
        DELETE FROM {s}.limit_definition WHERE name = name_ AND override;
        UPDATE {s}.limit_state SET closed_until = 0 WHERE closed_until > now_
           AND (name = name_ OR strpos(name_, ':') = 0 AND name > name_ || ':' AND name < name_ || ';');
    ELSE
        INSERT INTO {s}.limit_definition VALUES (name_, true, concurrency_, every_, burst_)
            ON CONFLICT (name, override) DO UPDATE
                SET concurrency = excluded.concurrency, every = excluded.every, burst = excluded.burst;
    END IF;
    PERFORM {s}.changed(name_, now_);
END $$;

-- -- carrying on ------------------------------------------------------------------------------------------

-- Do what settlements and removals have left in the inboxes, as a statement of its own, which does not wait for the disk: if
-- it is lost, whoever reserves or keeps house does it.
CREATE OR REPLACE FUNCTION {s}.tidy_lines() RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF EXISTS (SELECT FROM {s}.limit_change) OR EXISTS (SELECT FROM {s}.leaving) THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        PERFORM {s}.lock_lines();
        PERFORM {s}.apply_changes({s}.now_());
    END IF;
END $$;

-- Put pushed jobs into their lines, `most` of each topic, and wake workers for those that may start. Returns the topics of which
-- there may be more. Losing it in a crash of the server loses nothing: whoever reserves or keeps house does it.
CREATE OR REPLACE FUNCTION {s}.enter_pushed(topics text[], counts integer[], most integer) RETURNS text[] LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    now_ double precision;
    more text[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.entering WHERE topic = ANY (topics)) THEN
        PERFORM {s}.wake_after(topics, counts); -- they have a key, and their topics are not fair
        RETURN more;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM {s}.lock_lines();
    now_ := {s}.now_();
    PERFORM {s}.apply_changes(now_);
    FOR n IN 1 .. cardinality(topics) LOOP
        IF {s}.enter_lines(topics[n], most, now_) THEN
            more := more || topics[n];
        END IF;
        IF EXISTS (SELECT FROM {s}.line WHERE topic = topics[n] AND filed_under IS NULL)
            OR EXISTS (SELECT FROM {s}.ready WHERE topic = topics[n]) THEN
            PERFORM {s}.wake(topics[n : n], counts[n]);
        END IF;
    END LOOP;
    RETURN more;
END $$;

-- The same as `tidy_lines` as a part of housekeeping, for all topics; forget what is not needed any more. Returns whether there is more to do.
CREATE OR REPLACE FUNCTION {s}.keep_lines(most integer) RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    now_ double precision;
    t text;
    more boolean := false;
BEGIN
    IF NOT (EXISTS (SELECT FROM {s}.topic_lines) OR EXISTS (SELECT FROM {s}.entering) OR EXISTS (SELECT FROM {s}.limit_state)
            OR EXISTS (SELECT FROM {s}.limit_change)) THEN
        RETURN false;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM {s}.lock_lines();
    now_ := {s}.now_();
    PERFORM {s}.apply_changes(now_);
    FOR t IN SELECT * FROM {s}.topics_of('entering') LOOP
        EXIT WHEN more;
        more := {s}.enter_lines(t, least(most, 1000), now_);
        PERFORM {s}.wake(ARRAY[t], 1);
    END LOOP;
    more := {s}.forget_idle(most, now_) OR more;
    DELETE FROM {s}.topic_lines AS t WHERE NOT fair AND ready = 0 AND limited = 0
        AND NOT EXISTS (SELECT FROM {s}.line AS l WHERE l.topic = t.topic)
        AND NOT EXISTS (SELECT FROM {s}.opening AS o WHERE o.topic = t.topic AND o.at > now_);
    FOR t IN SELECT * FROM {s}.topics_of('opening') LOOP
        IF NOT EXISTS (SELECT FROM {s}.topic_lines WHERE topic = t) THEN
            DELETE FROM {s}.opening WHERE topic = t AND name = ANY (ARRAY(SELECT name FROM {s}.opening WHERE topic = t LIMIT most));
        END IF;
    END LOOP;
    DELETE FROM {s}.keyless_turn AS k WHERE NOT EXISTS (SELECT FROM {s}.topic_lines AS t WHERE t.topic = k.topic);
    RETURN more OR EXISTS (SELECT FROM {s}.limit_change) OR EXISTS (SELECT FROM {s}.leaving);
END $$;
