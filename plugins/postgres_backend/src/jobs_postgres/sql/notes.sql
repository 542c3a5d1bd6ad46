-- What jobs tell, their timelines, and done jobs that are kept: see backends/notes.py. Plain jobs have no row here.

CREATE TABLE IF NOT EXISTS {s}.note (  -- housekeeping deletes the rows of jobs that are gone
    seq      bigint           PRIMARY KEY,
    request  text COLLATE "C" NOT NULL, -- of the run that has told something last: its token is seq and request
    seen     integer          NOT NULL, -- number of its lines
    progress bytea            NOT NULL,
    lines    bytea[]          NOT NULL,
    timeline bytea[]          NOT NULL
);

CREATE TABLE IF NOT EXISTS {s}.done_job ( -- their ids are in `ended`, too, where pushes look, and where the results are
    id           text COLLATE "C" PRIMARY KEY,
    topic        text COLLATE "C" NOT NULL,
    n            bigint           NOT NULL, -- order of the ends
    at           double precision NOT NULL,
    until        double precision NOT NULL,
    payload      bytea            NOT NULL,
    rank         smallint         NOT NULL,
    attempt      integer          NOT NULL,
    redeliveries integer          NOT NULL,
    crashes      integer          NOT NULL,
    deferrals    integer          NOT NULL,
    pushed_at    double precision NOT NULL,
    errors       bytea[],
    key          text,
    limits       text[],
    cursor       bytea,
    progress     bytea            NOT NULL,
    lines        bytea[]          NOT NULL,
    timeline     bytea[]          NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS done_job_topic ON {s}.done_job (topic, n);
CREATE INDEX IF NOT EXISTS done_job_until ON {s}.done_job (until);
CREATE SEQUENCE IF NOT EXISTS {s}.ending;

-- The newest lines that a job may keep: MOST_LINES, of MOST_BYTES together.
CREATE OR REPLACE FUNCTION {s}.newest(lines bytea[]) RETURNS bytea[] LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(line ORDER BY n), '{}')
      FROM (SELECT line, n, sum(length(line)) OVER (ORDER BY n DESC) AS size
              FROM unnest(lines[greatest(1, cardinality(lines) - 199) :]) WITH ORDINALITY AS each (line, n)) AS sized
     WHERE size <= 65536
$$;

-- Add to what is known about a reserved job: a note of its run (`lines_` is NULL if there is none), an entry of its timeline.
CREATE OR REPLACE FUNCTION {s}.add_note(
    seq_ bigint, request_ text, progress_ bytea, lines_ bytea[], first_ integer, timeline_ bytea)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kept {s}.note;
    seen_ integer := 0;
BEGIN
    SELECT * INTO kept FROM {s}.note WHERE seq = seq_ FOR UPDATE;
    IF NOT FOUND THEN
        kept := ROW (seq_, request_, 0, '', '{}', '{}');
    END IF;
    IF lines_ IS NOT NULL THEN
        IF kept.request = request_ THEN
            seen_ := kept.seen;
        END IF;
        kept.request := request_;
        kept.seen := greatest(seen_, first_ + cardinality(lines_));
        kept.progress := coalesce(progress_, kept.progress);
        kept.lines := {s}.newest(kept.lines || lines_[greatest(0, seen_ - first_) + 1 :]);
    END IF;
    IF timeline_ IS NOT NULL THEN
        kept.timeline := kept.timeline[greatest(1, cardinality(kept.timeline) - 18) :] || timeline_; -- MOST_RUNS
    END IF;
    INSERT INTO {s}.note SELECT kept.*
        ON CONFLICT (seq) DO UPDATE SET request = excluded.request, seen = excluded.seen, progress = excluded.progress,
                                        lines = excluded.lines, timeline = excluded.timeline;
END $$;

-- Store notes of running jobs. `counts` has the number of lines of each note, and `lines` those of all.
CREATE OR REPLACE FUNCTION {s}.tell_notes(
    owner_ text, seqs bigint[], requests text[], progresses bytea[], firsts integer[], counts integer[], lines bytea[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before integer := 0;
BEGIN
    PERFORM FROM {s}.owner WHERE id = owner_ FOR KEY SHARE;
    PERFORM set_config('synchronous_commit', 'off', true); -- a crash of the server may lose what was told last
    FOR n IN 1 .. cardinality(seqs) LOOP
        PERFORM FROM {s}.reserved WHERE seq = seqs[n] AND request = requests[n] AND owner = owner_ FOR KEY SHARE;
        IF FOUND THEN
            PERFORM {s}.add_note(seqs[n], requests[n], progresses[n], lines[before + 1 : before + counts[n]], firsts[n], NULL);
        END IF;
        before := before + counts[n];
    END LOOP;
END $$;

-- Add the last notes of a reserved job that is about to be settled, and keep it for `ttl` seconds if it is done (and `ttl` is
-- not NULL); drop some of the oldest done jobs beyond `most`.
CREATE OR REPLACE FUNCTION {s}.tell_end(
    owner_ text, seq_ bigint, request_ text, progress_ bytea, lines_ bytea[], first_ integer, timeline_ bytea,
    ttl double precision, most integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    topic_ text;
BEGIN
    SELECT topic INTO topic_ FROM {s}.reserved WHERE seq = seq_ AND request = request_ AND owner = owner_ FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM {s}.add_note(seq_, request_, progress_, lines_, first_, timeline_);
    IF ttl IS NULL OR ttl <= 0 THEN
        RETURN;
    END IF;
    DELETE FROM {s}.done_job AS d USING {s}.job AS j WHERE j.seq = seq_ AND d.id = j.id;
    INSERT INTO {s}.done_job
    SELECT j.id, j.topic, nextval('{s}.ending'), now_, now_ + ttl, j.payload, j.rank, j.attempt, j.redeliveries, j.crashes,
           j.deferrals, j.pushed_at, j.errors, j.key, j.limits, (SELECT c.cursor FROM {s}.checkpoint AS c WHERE c.seq = seq_),
           n.progress, n.lines, n.timeline
      FROM {s}.job AS j JOIN {s}.note AS n USING (seq) WHERE j.seq = seq_;
    INSERT INTO {s}.ended SELECT id, topic, 'done', now_, now_ + ttl, NULL FROM {s}.job WHERE seq = seq_
        ON CONFLICT (id) DO UPDATE SET topic = excluded.topic, state = excluded.state, at = excluded.at,
                                       until = excluded.until, result = excluded.result;
    DELETE FROM {s}.note WHERE seq = seq_;
    IF most < 1000 OR seq_ % 100 = 0 THEN -- it costs as much as the topic keeps
        DELETE FROM {s}.done_job WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {s}.done_job WHERE topic = topic_ AND n <= (
                SELECT n FROM {s}.done_job WHERE topic = topic_ ORDER BY n DESC LIMIT 1 OFFSET most)
             ORDER BY n LIMIT 1000 FOR UPDATE SKIP LOCKED));
    END IF;
END $$;

-- Delete done jobs whose time is over, and notes of jobs that are gone: of the next `most` after those of the round before.
CREATE OR REPLACE FUNCTION {s}.drop_notes(most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    after_ bigint;
    upto bigint;
BEGIN
    DELETE FROM {s}.done_job WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {s}.done_job WHERE until <= now_ ORDER BY until LIMIT most FOR UPDATE SKIP LOCKED));
    INSERT INTO {s}.meta VALUES ('notes_swept', 0) ON CONFLICT DO NOTHING;
    SELECT value::bigint INTO after_ FROM {s}.meta WHERE key = 'notes_swept' FOR UPDATE;
    SELECT seq INTO upto FROM {s}.note WHERE seq > after_ ORDER BY seq OFFSET most - 1 LIMIT 1;
    DELETE FROM {s}.note AS n WHERE seq > after_ AND (upto IS NULL OR seq <= upto)
        AND NOT EXISTS (SELECT FROM {s}.job AS j WHERE j.seq = n.seq);
    IF after_ <> coalesce(upto, 0) THEN
        UPDATE {s}.meta SET value = coalesce(upto, 0) WHERE key = 'notes_swept';
    END IF;
END $$;
