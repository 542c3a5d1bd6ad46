-- The store in PostgreSQL, schema version 1. {s} is the schema, which BackendOptions.prefix names. A job has a row in `job`
-- from its push to its end; its state follows from the other table that has a row of it:
--
--   ready  scheduled  reserved  dead;   done with a result, or cancelled: no row in `job`, one in `ended`
--
-- On the path of a plain job, rows are inserted and deleted, never updated: push inserts into job and ready, reserve moves a
-- row from ready to reserved, settle deletes from reserved and job. Times are Unix seconds of the server's clock.

CREATE SCHEMA IF NOT EXISTS {s};

CREATE TABLE IF NOT EXISTS {s}.meta (key text PRIMARY KEY, value double precision NOT NULL);
INSERT INTO {s}.meta VALUES ('schema', 1), ('last_housekeep', 0) ON CONFLICT DO NOTHING;

CREATE SEQUENCE IF NOT EXISTS {s}.arrival;           -- order of arrival

CREATE TABLE IF NOT EXISTS {s}.job (
    seq          bigint           PRIMARY KEY,
    id           text COLLATE "C" NOT NULL UNIQUE,
    topic        text COLLATE "C" NOT NULL,
    rank         smallint         NOT NULL, -- minus the priority: ascending order is the order of service
    since        double precision NOT NULL, -- when it became ready, or becomes ready if it is scheduled
    attempt      integer          NOT NULL DEFAULT 0,
    redeliveries integer          NOT NULL DEFAULT 0,
    crashes      integer          NOT NULL DEFAULT 0,
    deferrals    integer          NOT NULL DEFAULT 0,
    pushed_at    double precision NOT NULL,
    unique_key   text COLLATE "C",          -- the key that it may hold in unique_key
    errors       bytea[],                   -- JSON documents, the newest ones, oldest first
    key          text,
    limits       text[],
    payload      bytea            NOT NULL
);

CREATE TABLE IF NOT EXISTS {s}.ready (               -- in order of service: by priority, then by the time at which they became ready
    topic text COLLATE "C" NOT NULL,
    rank  smallint         NOT NULL,
    since double precision NOT NULL,
    seq   bigint           NOT NULL,
    PRIMARY KEY (topic, rank, since, seq)
);

CREATE TABLE IF NOT EXISTS {s}.scheduled (
    topic text COLLATE "C" NOT NULL,
    due   double precision NOT NULL,
    seq   bigint           NOT NULL UNIQUE,
    rank  smallint         NOT NULL,
    PRIMARY KEY (topic, due, seq)
);

CREATE TABLE IF NOT EXISTS {s}.reserved (            -- a token is seq and request: a request reserves a job once, and is never repeated
    seq     bigint           PRIMARY KEY,
    at      double precision NOT NULL,
    owner   text COLLATE "C" NOT NULL,
    request text COLLATE "C" NOT NULL,
    topic   text COLLATE "C" NOT NULL
);

CREATE TABLE IF NOT EXISTS {s}.dead (
    topic  text COLLATE "C" NOT NULL,
    at     double precision NOT NULL,
    seq    bigint           NOT NULL UNIQUE,
    reason text             NOT NULL,
    PRIMARY KEY (topic, at, seq)
);

CREATE TABLE IF NOT EXISTS {s}.owner (
    id          text COLLATE "C" PRIMARY KEY,
    lease_until double precision NOT NULL
);

CREATE TABLE IF NOT EXISTS {s}.settled (             -- the answer to the last settle request of each owner
    owner   text COLLATE "C" NOT NULL,
    request text COLLATE "C" NOT NULL,
    answers text             NOT NULL, -- a letter for each settlement: s if it was settled
    PRIMARY KEY (owner, request)
);

CREATE TABLE IF NOT EXISTS {s}.cancel (              -- reserved jobs that are to be cancelled
    seq    bigint           PRIMARY KEY,
    id     text             NOT NULL,
    forced boolean          NOT NULL
);

CREATE TABLE IF NOT EXISTS {s}.checkpoint (          -- the cursors of resumable jobs
    seq    bigint PRIMARY KEY,
    cursor bytea  NOT NULL
);

CREATE TABLE IF NOT EXISTS {s}.ended (               -- results, and records of cancelled jobs
    id     text COLLATE "C" PRIMARY KEY,
    topic  text             NOT NULL,
    state  text             NOT NULL,
    at     double precision NOT NULL,
    until  double precision NOT NULL,
    result bytea
);
CREATE INDEX IF NOT EXISTS ended_until ON {s}.ended (until);

CREATE TABLE IF NOT EXISTS {s}.unique_key (
    key    text COLLATE "C" PRIMARY KEY,
    job_id text    NOT NULL,
    scope  text    NOT NULL,           -- queued, done, or time
    loose  boolean NOT NULL,           -- held loosely: see BindsKeys
    until  double precision            -- scope time: when it ends; queued: when jobs that replace each other must be due
);
CREATE INDEX IF NOT EXISTS unique_key_until ON {s}.unique_key (until) WHERE until IS NOT NULL;

CREATE TABLE IF NOT EXISTS {s}.push_request (        -- pushes of the dedup window
    request   text COLLATE "C" PRIMARY KEY,
    at        double precision NOT NULL,
    conflicts jsonb            NOT NULL
);
CREATE INDEX IF NOT EXISTS push_request_at ON {s}.push_request (at);

CREATE TABLE IF NOT EXISTS {s}.paused (topic text COLLATE "C" PRIMARY KEY);

CREATE TABLE IF NOT EXISTS {s}.sleeper (             -- workers that wait for jobs of a topic, and the channels to which they listen
    topic   text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    PRIMARY KEY (topic, channel)
);

CREATE TABLE IF NOT EXISTS {s}.waiter (              -- processes that wait for the end of a job
    id      text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    at      double precision NOT NULL,
    PRIMARY KEY (id, channel)
);

-- Rows of these tables live for milliseconds: vacuum them often, however many rows they had before.
ALTER TABLE {s}.job SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, fillfactor = 90);
ALTER TABLE {s}.ready SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.reserved SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.settled SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.push_request SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE IF NOT EXISTS {s}.document (
    kind       text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    data       bytea            NOT NULL,
    version    bigint           NOT NULL,
    changed_at double precision NOT NULL,
    until      double precision,       -- when it expires
    PRIMARY KEY (kind, name)
);
CREATE INDEX IF NOT EXISTS document_until ON {s}.document (until) WHERE until IS NOT NULL;

CREATE TABLE IF NOT EXISTS {s}.document_kind (kind text COLLATE "C" PRIMARY KEY, version bigint NOT NULL);
