-- The tables of limits and fairness, since schema version 3: see lines.py and limits.py.

CREATE TABLE line (             -- ready jobs with the same limits, and in a fair topic of the same key and rank: see lines.py
    id         INTEGER PRIMARY KEY,
    topic      TEXT    NOT NULL,
    fair       INTEGER NOT NULL,                -- whether the topic was fair when the line began
    rank       INTEGER NOT NULL,                -- of all its jobs, if fair; otherwise 0, and its jobs are of any rank
    key        TEXT    NOT NULL,                -- of all its jobs, if fair; otherwise empty
    limits     TEXT    NOT NULL,                -- a JSON array
    size       INTEGER NOT NULL,                -- number of its jobs
    bounded    INTEGER NOT NULL,                -- whether a concurrency is defined for one of its limits
    filed_under TEXT,                            -- the limit under which it is filed, if it is closed
    turn       INTEGER NOT NULL,                -- the turn of its key, if fair
    head_rank  INTEGER NOT NULL,                -- the place of its first job, as in `ready`
    head_since REAL    NOT NULL,
    head_seq   INTEGER NOT NULL,
    UNIQUE (topic, fair, rank, key, limits)
);
CREATE INDEX line_open ON line (topic, fair, bounded, head_rank, head_since, head_seq) WHERE filed_under IS NULL;
CREATE INDEX line_open_turn ON line (topic, bounded, head_rank, turn, head_since, head_seq) WHERE filed_under IS NULL AND fair = 1;
CREATE INDEX line_filed ON line (filed_under, topic, fair, head_rank, head_since, head_seq) WHERE filed_under IS NOT NULL;
CREATE INDEX line_filed_turn ON line (filed_under, topic, head_rank, turn, head_since, head_seq)
 WHERE filed_under IS NOT NULL AND fair = 1;

CREATE TABLE lined (            -- the jobs of lines; their places are those that they would have in `ready`
    seq   INTEGER PRIMARY KEY,
    line  INTEGER NOT NULL,
    rank  INTEGER NOT NULL,
    since REAL    NOT NULL
);
CREATE INDEX lined_order ON lined (line, rank, since, seq);

CREATE TABLE topic_lines (      -- topics that are or were fair, or have or had lines
    topic       TEXT PRIMARY KEY,
    fair        INTEGER NOT NULL DEFAULT 0,
    max_per_key INTEGER,
    ready       INTEGER NOT NULL DEFAULT 0,     -- jobs in open lines
    limited     INTEGER NOT NULL DEFAULT 0,     -- jobs in closed lines
    turn        INTEGER NOT NULL DEFAULT 0,     -- last turn given
    front       INTEGER NOT NULL DEFAULT 0      -- lowest turn given to a key that was put at the front
) WITHOUT ROWID;

CREATE TABLE keyless_turn (     -- the turn of the jobs without a key, and of those that stand in no fair line
    topic TEXT    NOT NULL,
    rank  INTEGER NOT NULL,
    turn  INTEGER NOT NULL,
    PRIMARY KEY (topic, rank)
) WITHOUT ROWID;

CREATE TABLE limit_state (      -- limit values that are held, closed, in debt, or have lines filed under them
    name         TEXT PRIMARY KEY,
    used         INTEGER NOT NULL DEFAULT 0,    -- reservations that hold a slot
    tat          REAL    NOT NULL DEFAULT 0,    -- of its rate, see backends/limits.py
    closed_until REAL    NOT NULL DEFAULT 0,
    waiting      INTEGER NOT NULL DEFAULT 0     -- jobs in lines that are filed under it
) WITHOUT ROWID;

CREATE TABLE limit_definition (
    name        TEXT    NOT NULL,               -- of an override, perhaps with a value
    override    INTEGER NOT NULL,
    concurrency INTEGER,
    interval    REAL,
    burst       INTEGER NOT NULL,
    PRIMARY KEY (name, override)
) WITHOUT ROWID;

CREATE TABLE opening (          -- limits that have to be looked at again, because their rate or closure ends, or they changed
    topic TEXT NOT NULL,
    name  TEXT NOT NULL,
    at    REAL NOT NULL,
    PRIMARY KEY (topic, name)
) WITHOUT ROWID;
CREATE INDEX opening_at ON opening (topic, at);
