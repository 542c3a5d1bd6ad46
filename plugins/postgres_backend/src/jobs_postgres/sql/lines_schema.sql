-- The tables of limits and fairness, since schema version 2: what they mean is said in lines.sql. Each statement may be repeated.

-- Whether the job may have to stand in a line when it is due: it has limits or a key.
ALTER TABLE {s}.scheduled ADD COLUMN IF NOT EXISTS lined boolean NOT NULL DEFAULT false;

-- What the reservation takes from limits: an object of their names, each with the interval of its rate, or 0. NULL: nothing.
ALTER TABLE {s}.reserved ADD COLUMN IF NOT EXISTS slots jsonb;

-- -- inboxes: anybody inserts, and who holds the lock of lines takes out -------------------------------

CREATE TABLE IF NOT EXISTS {s}.entering (   -- ready jobs that are to enter their lines
    topic text COLLATE "C" NOT NULL,
    n     bigint           NOT NULL,         -- order of arrival here
    seq   bigint           NOT NULL UNIQUE,
    rank  smallint         NOT NULL,
    since double precision NOT NULL,
    front boolean          NOT NULL,         -- in a fair topic, its key is to be the first in turn
    PRIMARY KEY (topic, n)
);

CREATE TABLE IF NOT EXISTS {s}.leaving (    -- jobs that were taken out of their lines
    line bigint NOT NULL,
    seq  bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS {s}.limit_change ( -- slots that were freed, and limits that were closed
    name         text COLLATE "C" NOT NULL,
    freed        integer          NOT NULL,
    debt         double precision NOT NULL, -- seconds of its rate that are given back
    closed_until double precision NOT NULL
);

-- -- changed only by who holds the lock of lines ---------------------------------------------------------

CREATE TABLE IF NOT EXISTS {s}.topic_lines ( -- topics that are fair, or have lines
    topic       text COLLATE "C" PRIMARY KEY,
    fair        boolean NOT NULL DEFAULT false,
    max_per_key integer,
    ready       bigint  NOT NULL DEFAULT 0, -- jobs in open lines
    limited     bigint  NOT NULL DEFAULT 0, -- jobs in closed lines
    turn        bigint  NOT NULL DEFAULT 0, -- last turn given
    front       bigint  NOT NULL DEFAULT 0  -- lowest turn given to a key that was put at the front
);

CREATE SEQUENCE IF NOT EXISTS {s}.line_id;

CREATE TABLE IF NOT EXISTS {s}.line (       -- ready jobs with the same limits, and in a fair topic of the same key and rank
    id          bigint           PRIMARY KEY DEFAULT nextval('{s}.line_id'),
    topic       text COLLATE "C" NOT NULL,
    fair        boolean          NOT NULL,  -- whether the topic was fair when the line began
    rank        smallint         NOT NULL,  -- of all its jobs, if fair; otherwise 0, and its jobs are of any rank
    key         text COLLATE "C" NOT NULL,  -- of all its jobs, if fair; otherwise empty
    limits      text[] COLLATE "C" NOT NULL,
    size        bigint           NOT NULL,  -- number of its jobs
    bounded     boolean          NOT NULL,  -- whether a concurrency is defined for one of its limits
    filed_under text COLLATE "C",           -- the limit under which it is filed, if it is closed
    turn        bigint           NOT NULL,  -- the turn of its key, if fair
    head_rank   smallint         NOT NULL,  -- the place of its first job, as in `ready`
    head_since  double precision NOT NULL,
    head_seq    bigint           NOT NULL,
    UNIQUE (topic, fair, rank, key, limits)
);
CREATE INDEX IF NOT EXISTS line_open ON {s}.line (topic, fair, bounded, head_rank, head_since, head_seq) WHERE filed_under IS NULL;
CREATE INDEX IF NOT EXISTS line_open_turn ON {s}.line (topic, bounded, head_rank, turn, head_since, head_seq)
 WHERE filed_under IS NULL AND fair;
CREATE INDEX IF NOT EXISTS line_filed ON {s}.line (filed_under, topic, fair, head_rank, head_since, head_seq)
 WHERE filed_under IS NOT NULL;
CREATE INDEX IF NOT EXISTS line_filed_turn ON {s}.line (filed_under, topic, head_rank, turn, head_since, head_seq)
 WHERE filed_under IS NOT NULL AND fair;

CREATE TABLE IF NOT EXISTS {s}.lined (      -- the jobs of lines; their places are those that they would have in `ready`
    seq   bigint           NOT NULL UNIQUE,
    line  bigint           NOT NULL,
    rank  smallint         NOT NULL,
    since double precision NOT NULL,
    PRIMARY KEY (line, rank, since, seq)
);

CREATE TABLE IF NOT EXISTS {s}.keyless_turn ( -- the turn of the jobs without a key, and of those that stand in no fair line
    topic text COLLATE "C" NOT NULL,
    rank  smallint         NOT NULL,
    turn  bigint           NOT NULL,
    PRIMARY KEY (topic, rank)
);

CREATE TABLE IF NOT EXISTS {s}.limit_state ( -- limit values that are held, closed, in debt, or have lines filed under them
    name         text COLLATE "C" PRIMARY KEY,
    used         bigint           NOT NULL DEFAULT 0, -- reservations that hold a slot
    tat          double precision NOT NULL DEFAULT 0, -- of its rate, see backends/limits.py
    closed_until double precision NOT NULL DEFAULT 0,
    waiting      bigint           NOT NULL DEFAULT 0  -- jobs in lines that are filed under it
);
CREATE INDEX IF NOT EXISTS limit_state_waiting ON {s}.limit_state (waiting) WHERE waiting > 0;

CREATE TABLE IF NOT EXISTS {s}.limit_definition (
    name        text COLLATE "C" NOT NULL,  -- of an override, perhaps with a value
    override    boolean          NOT NULL,
    concurrency integer,
    every       double precision,           -- interval of the rate
    burst       integer          NOT NULL,
    PRIMARY KEY (name, override)
);

CREATE TABLE IF NOT EXISTS {s}.opening (    -- limits to look at again, because their rate or closure ends, or they changed
    topic text COLLATE "C" NOT NULL,
    name  text COLLATE "C" NOT NULL,        -- or, with a line break, all values of a name after one: see look_again
    at    double precision NOT NULL,
    PRIMARY KEY (topic, name)
);
CREATE INDEX IF NOT EXISTS opening_at ON {s}.opening (topic, at);

ALTER TABLE {s}.entering SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.leaving SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.limit_change SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.topic_lines SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, fillfactor = 50);
ALTER TABLE {s}.line SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, fillfactor = 80);
ALTER TABLE {s}.lined SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.limit_state SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, fillfactor = 50);
