-- Dead letters by what went wrong, since schema version 5: a row for each, and a count for each topic and fingerprint, which
-- letters.py keeps. Earlier releases do not know of them: housekeeping corrects what they leave out.

CREATE TABLE dead_letter (
    seq         INTEGER PRIMARY KEY,
    topic       TEXT NOT NULL,
    at          REAL NOT NULL,                  -- job.dead_at
    fingerprint TEXT NOT NULL DEFAULT ''        -- its id; empty until it has one
);
CREATE INDEX dead_letter_group ON dead_letter (topic, fingerprint, at, seq);
CREATE INDEX dead_letter_unnamed ON dead_letter (seq) WHERE fingerprint = '';

CREATE TABLE dead_group (
    topic       TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    letters     INTEGER NOT NULL,
    PRIMARY KEY (topic, fingerprint)
) WITHOUT ROWID;

CREATE TABLE dead_cause (       -- what a fingerprint says; housekeeping deletes those without a group
    fingerprint TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    place       TEXT NOT NULL,
    message     TEXT NOT NULL
) WITHOUT ROWID;

INSERT INTO dead_letter (seq, topic, at) SELECT seq, topic, dead_at FROM job WHERE dead_at IS NOT NULL;
INSERT INTO dead_group (topic, fingerprint, letters) SELECT topic, '', count(*) FROM dead_letter GROUP BY topic;
