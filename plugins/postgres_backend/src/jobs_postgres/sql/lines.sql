-- Lines: the ready jobs that have limits, or a key in a fair topic. See `backends/limits.py` for the rules.
--
-- Whoever makes such a job ready, takes it away, or ends its reservation only inserts into the inboxes `entering`, `leaving`
-- and `limit_change`: so it waits for nobody, and a transaction of a caller that stays open holds nobody up. Lines, limits and
-- turns are changed only under one lock, by `serve` when it reserves, and by others as said there. They hold it until their
-- commit, which does not wait for the disk, and meanwhile never wait for a row: so no two steps can wait for one another.

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
          FROM (SELECT * FROM these WHERE lined ORDER BY rank, since, seq) AS these)
    INSERT INTO {s}.ready SELECT topic, rank, since, seq FROM these WHERE NOT lined
$$;

-- Store messages, of which one has limits or a key; see `insert_jobs`.
CREATE OR REPLACE FUNCTION {s}.insert_lined(messages jsonb, payloads bytea[], now_ double precision)
RETURNS void LANGUAGE sql AS $$
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
    INSERT INTO {s}.ready SELECT topic, rank, since, seq FROM these WHERE NOT lined
$$;

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
CREATE OR REPLACE FUNCTION {s}.free(slots jsonb[], ran boolean) RETURNS void LANGUAGE sql AS $$
    INSERT INTO {s}.limit_change
    SELECT each.key, count(*), CASE WHEN ran THEN 0 ELSE sum(each.value::double precision) END, 0
      FROM unnest(slots) AS held, jsonb_each(held) AS each GROUP BY each.key
$$;
