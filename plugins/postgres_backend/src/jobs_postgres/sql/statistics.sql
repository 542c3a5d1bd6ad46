-- What the workers of all machines did, by time and topic: see backends/statistics.py.

CREATE TABLE IF NOT EXISTS {s}.statistics (
    span  integer          NOT NULL,        -- seconds
    at    bigint           NOT NULL,        -- unix seconds
    topic text COLLATE "C" NOT NULL,
    job   text COLLATE "C" NOT NULL,
    sums  bigint[]         NOT NULL,
    peaks bigint[]         NOT NULL,
    PRIMARY KEY (span, at, topic, job)
);

CREATE TABLE IF NOT EXISTS {s}.statistics_request (
    request text COLLATE "C" PRIMARY KEY,
    at      double precision NOT NULL,
    answer  integer          NOT NULL
);
CREATE INDEX IF NOT EXISTS statistics_request_at ON {s}.statistics_request (at);

CREATE OR REPLACE FUNCTION {s}.added(mine bigint[], others bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY n), '{}')
      FROM unnest(mine, others) WITH ORDINALITY AS pair (a, b, n)
$$;

CREATE OR REPLACE FUNCTION {s}.greater(mine bigint[], others bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(greatest(a, b) ORDER BY n), '{}') FROM unnest(mine, others) WITH ORDINALITY AS pair (a, b, n)
$$;

CREATE OR REPLACE FUNCTION {s}.add_row(row_ {s}.statistics) RETURNS void LANGUAGE sql AS $$
    INSERT INTO {s}.statistics AS kept SELECT row_.*
        ON CONFLICT (span, at, topic, job) DO UPDATE
       SET sums = {s}.added(kept.sums, excluded.sums), peaks = {s}.greater(kept.peaks, excluded.peaks)
$$;

-- Add rows up, once per request; return how many are too old, or too far ahead. `sums_` and `peaks_` are arrays as text.
CREATE OR REPLACE FUNCTION {s}.add_statistics(
    request_ text, spans integer[], ats bigint[], topics text[], jobs text[], sums_ text[], peaks_ text[])
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    left_out integer := 0;
    row_ {s}.statistics;
BEGIN
    INSERT INTO {s}.statistics_request VALUES (request_, now_, 0) ON CONFLICT DO NOTHING; -- waits for a call of this request
    IF NOT FOUND THEN
        RETURN (SELECT answer FROM {s}.statistics_request WHERE request = request_);
    END IF;
    FOR row_ IN
        SELECT span, at, topic, job, sums::bigint[], peaks::bigint[]
          FROM unnest(spans, ats, topics, jobs, sums_, peaks_) AS given (span, at, topic, job, sums, peaks)
         ORDER BY 1, 2, 3, 4 -- so that two calls never wait for each other
    LOOP
        IF now_ - row_.at < -3600 OR now_ - row_.at >= (CASE WHEN row_.job = '' THEN 30 * 86400 ELSE 86400 END) THEN
            left_out := left_out + 1;
            CONTINUE;
        END IF;
        IF row_.job = '' AND now_ - row_.at >= 86400 THEN
            row_.span := 3600;
            row_.at := row_.at - row_.at % 3600;
        END IF;
        PERFORM {s}.add_row(row_);
    END LOOP;
    IF left_out > 0 THEN
        UPDATE {s}.statistics_request SET answer = left_out WHERE request = request_;
    END IF;
    RETURN left_out;
END $$;

-- Fold and drop old rows, up to `most` of each kind, and forget requests; return whether there may be more.
CREATE OR REPLACE FUNCTION {s}.keep_statistics(most integer, remembered double precision) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    span_ integer;
    row_ {s}.statistics;
    n integer;
    more boolean := false;
BEGIN
    DELETE FROM {s}.statistics_request WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.statistics_request WHERE at <= now_ - remembered ORDER BY at LIMIT 10 * most
           FOR UPDATE SKIP LOCKED));
    n := 0;
    FOR row_ IN
        WITH old AS (
            DELETE FROM {s}.statistics WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {s}.statistics WHERE span = 60 AND at <= now_ - 86400 ORDER BY at LIMIT most
                   FOR UPDATE SKIP LOCKED)) RETURNING *)
        SELECT 3600, at - at % 3600, topic, job, sums, peaks FROM old ORDER BY 2, 3, 4
    LOOP
        PERFORM {s}.add_row(row_);
        n := n + 1;
    END LOOP;
    more := n >= most;
    FOREACH span_ IN ARRAY ARRAY[300, 3600] LOOP
        DELETE FROM {s}.statistics WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {s}.statistics
             WHERE span = span_ AND at <= now_ - CASE span_ WHEN 300 THEN 86400 ELSE 30 * 86400 END ORDER BY at LIMIT most
               FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS n = ROW_COUNT;
        more := more OR n >= most;
    END LOOP;
    RETURN more;
END $$;
