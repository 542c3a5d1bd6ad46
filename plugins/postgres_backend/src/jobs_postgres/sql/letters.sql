-- Dead letters by what went wrong: see backends/letters.py. Only jobs that die, and dead letters, pay for it.

ALTER TABLE {s}.dead ADD COLUMN IF NOT EXISTS fingerprint text COLLATE "C" NOT NULL DEFAULT ''; -- its id; empty until it has one
ALTER TABLE {s}.dead ADD COLUMN IF NOT EXISTS cause text[]; -- kind, place and message of the fingerprint
CREATE INDEX IF NOT EXISTS dead_in_group ON {s}.dead (topic, fingerprint, at, seq);
CREATE INDEX IF NOT EXISTS dead_unnamed ON {s}.dead (seq) WHERE fingerprint = '';

CREATE TABLE IF NOT EXISTS {s}.dead_group (
    topic       text COLLATE "C" NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    letters     bigint           NOT NULL,
    PRIMARY KEY (topic, fingerprint)
);
CREATE INDEX IF NOT EXISTS dead_group_empty ON {s}.dead_group (topic) WHERE letters = 0;
CREATE TABLE IF NOT EXISTS {s}.dead_change ( -- to be added to dead_group: jobs that die together do not wait for one another
    topic       text COLLATE "C" NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    letters     bigint           NOT NULL
);

CREATE OR REPLACE FUNCTION {s}.letters_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.dead_change SELECT topic, fingerprint, count(*) FROM added GROUP BY topic, fingerprint;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION {s}.letters_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.dead_change SELECT topic, fingerprint, -count(*) FROM removed GROUP BY topic, fingerprint;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION {s}.letters_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {s}.dead_change
    SELECT topic, fingerprint, sum(n)
      FROM (SELECT topic, fingerprint, 1 AS n FROM added UNION ALL SELECT topic, fingerprint, -1 FROM removed) AS changes
     GROUP BY topic, fingerprint HAVING sum(n) <> 0;
    RETURN NULL;
END $$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '{s}.dead'::regclass AND tgname = 'letters_changed') THEN
        LOCK TABLE {s}.dead IN SHARE ROW EXCLUSIVE MODE;
        INSERT INTO {s}.dead_change SELECT topic, fingerprint, count(*) FROM {s}.dead GROUP BY topic, fingerprint;
        CREATE TRIGGER letters_added AFTER INSERT ON {s}.dead REFERENCING NEW TABLE AS added
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.letters_added();
        CREATE TRIGGER letters_removed AFTER DELETE ON {s}.dead REFERENCING OLD TABLE AS removed
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.letters_removed();
        CREATE TRIGGER letters_changed AFTER UPDATE ON {s}.dead REFERENCING OLD TABLE AS removed NEW TABLE AS added
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.letters_changed();
    END IF;
END $$;

-- Give dead letters their fingerprints.
CREATE OR REPLACE FUNCTION {s}.name_letters(seqs bigint[], ids text[], kinds text[], places text[], messages text[])
RETURNS void LANGUAGE sql AS $$
    UPDATE {s}.dead AS d SET fingerprint = n.id, cause = ARRAY[n.kind, n.place, n.message]
      FROM unnest(seqs, ids, kinds, places, messages) AS n (seq, id, kind, place, message) WHERE d.seq = n.seq
$$;

-- Add changes to the counts, and return up to `most` letters that have no fingerprint yet, each with its reason and last error.
CREATE OR REPLACE FUNCTION {s}.keep_letters(most integer) RETURNS TABLE (seq bigint, reason text, error bytea)
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {s}.dead_change)
       AND pg_try_advisory_xact_lock(hashtextextended('jobs letters {s}', 0)) THEN
        WITH gone AS (
            DELETE FROM {s}.dead_change WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.dead_change LIMIT 10 * most))
            RETURNING dead_change.topic, dead_change.fingerprint, dead_change.letters)
        INSERT INTO {s}.dead_group AS g SELECT topic, fingerprint, sum(letters) FROM gone GROUP BY topic, fingerprint
            ON CONFLICT (topic, fingerprint) DO UPDATE SET letters = g.letters + excluded.letters;
        DELETE FROM {s}.dead_group WHERE letters = 0;
    END IF;
    RETURN QUERY SELECT d.seq, d.reason, j.errors[cardinality(j.errors)] FROM {s}.dead AS d JOIN {s}.job AS j USING (seq)
                  WHERE d.fingerprint = '' ORDER BY d.seq LIMIT most;
END $$;

-- Count the dead letters of topics by what went wrong, the largest groups of each first.
CREATE OR REPLACE FUNCTION {s}.dead_groups(topics text[], most integer)
RETURNS TABLE (topic text, fingerprint text, cause text[], letters bigint, first double precision, last double precision, example text)
LANGUAGE sql AS $$
    WITH counted AS (
        SELECT c.topic, c.fingerprint, sum(c.letters)::bigint AS letters
          FROM (SELECT * FROM {s}.dead_group AS g WHERE g.topic = ANY (topics) UNION ALL
                SELECT * FROM {s}.dead_change AS g WHERE g.topic = ANY (topics)) AS c
         GROUP BY 1, 2 HAVING sum(c.letters) > 0)
    SELECT l.topic, l.fingerprint, newest.cause, l.letters, oldest.at, newest.at, newest.id
      FROM unnest(topics) WITH ORDINALITY AS t (topic, n)
      CROSS JOIN LATERAL (SELECT * FROM counted WHERE counted.topic = t.topic
                           ORDER BY counted.letters DESC, counted.fingerprint LIMIT most) AS l
      CROSS JOIN LATERAL (SELECT d.cause, d.at, j.id FROM {s}.dead AS d JOIN {s}.job AS j USING (seq)
                           WHERE d.topic = l.topic AND d.fingerprint = l.fingerprint
                           ORDER BY d.at DESC, d.seq DESC LIMIT 1) AS newest
      CROSS JOIN LATERAL (SELECT d.at FROM {s}.dead AS d WHERE d.topic = l.topic AND d.fingerprint = l.fingerprint
                           ORDER BY d.at, d.seq LIMIT 1) AS oldest
     ORDER BY t.n, l.letters DESC, l.fingerprint
$$;

-- Replace the payload of a dead letter, and its topic if one is given; return whether there is such a letter.
-- NULL if it is a member of a flow, which stays in its topic.
CREATE OR REPLACE FUNCTION {s}.amend(id_ text, was bytea, payload_ bytea, topic_ text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    seq_ bigint;
BEGIN
    SELECT j.seq INTO seq_ FROM {s}.job AS j JOIN {s}.dead AS d USING (seq) WHERE j.id = id_ AND j.payload = was
       FOR UPDATE OF d, j;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF seq_ < 0 AND topic_ <> (SELECT topic FROM {s}.job WHERE seq = seq_) THEN
        RETURN NULL;
    END IF;
    UPDATE {s}.job SET payload = payload_, topic = coalesce(topic_, topic) WHERE seq = seq_;
    UPDATE {s}.dead SET topic = topic_ WHERE seq = seq_ AND topic <> topic_;
    RETURN true;
END $$;
