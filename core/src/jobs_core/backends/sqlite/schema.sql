-- The SQLite store, schema version 1. A job stands in `job` from push to end; where it is follows from where else
-- it stands:
--
--   ready       a row in `ready`                     reserved    a row in `reserved`
--   scheduled   `due` is set                         dead        `dead_at` is set
--   done with a result, or cancelled: no row in `job`, one in `ended`
--
-- The hot path touches job, ready and reserved only: push inserts into job and ready, reserve moves rows from
-- ready to reserved without touching job, settle deletes from reserved and job. Times are Unix seconds of this host.

CREATE TABLE meta (             -- sequence: last number given out; last_housekeep; readable_by: oldest schema that may write
    key   TEXT PRIMARY KEY,
    value NUMERIC NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('sequence', 0), ('last_housekeep', 0), ('readable_by', 1);

CREATE TABLE job (
    seq          INTEGER PRIMARY KEY,           -- order of arrival, from meta.sequence, never used twice
    id           TEXT    NOT NULL UNIQUE,
    topic        TEXT    NOT NULL,
    rank         INTEGER NOT NULL,              -- minus the priority: ascending order is the order of service
    ready_at     REAL,                          -- when it became ready, where that is not pushed_at
    due          REAL,                          -- scheduled until then
    dead_at      REAL,                          -- dead since then
    reason       TEXT,                          -- why dead
    attempt      INTEGER NOT NULL DEFAULT 0,
    redeliveries INTEGER NOT NULL DEFAULT 0,
    crashes      INTEGER NOT NULL DEFAULT 0,
    deferrals    INTEGER NOT NULL DEFAULT 0,
    pushed_at    REAL    NOT NULL,
    unique_key   TEXT,                          -- the key it may hold in unique_key
    errors       BLOB,                          -- a JSON array of the newest errors
    payload      BLOB    NOT NULL               -- the message, to the byte
);
CREATE INDEX job_scheduled ON job (topic, due) WHERE due IS NOT NULL;
CREATE INDEX job_dead ON job (topic, dead_at) WHERE dead_at IS NOT NULL;

CREATE TABLE ready (            -- the lines, in order of service: by priority, then by the time of becoming ready
    topic TEXT    NOT NULL,
    rank  INTEGER NOT NULL,
    since REAL    NOT NULL,                     -- ready_at, or pushed_at
    seq   INTEGER NOT NULL,
    PRIMARY KEY (topic, rank, since, seq)
) WITHOUT ROWID;

CREATE TABLE reserved (
    token   INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: the fence
    seq     INTEGER NOT NULL,
    at      REAL    NOT NULL,                   -- when it was reserved
    owner   TEXT    NOT NULL,
    request TEXT    NOT NULL
);

CREATE TABLE owner (
    id              TEXT PRIMARY KEY,
    lease_until     REAL NOT NULL,
    reserve_request TEXT NOT NULL DEFAULT '',   -- the last ones: a repeated request is answered, not done again
    settle_request  TEXT NOT NULL DEFAULT '',
    settle_answers  BLOB
) WITHOUT ROWID;

CREATE TABLE cancel (           -- reserved jobs that somebody wants cancelled
    seq INTEGER PRIMARY KEY
);

CREATE TABLE ended (            -- results, and cancelled jobs
    id     TEXT PRIMARY KEY,
    topic  TEXT NOT NULL,
    state  TEXT NOT NULL,
    at     REAL NOT NULL,
    until  REAL NOT NULL,
    result BLOB
) WITHOUT ROWID;
CREATE INDEX ended_until ON ended (until);

CREATE TABLE unique_key (
    key    TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    scope  TEXT NOT NULL,                       -- queued, done, or time; with a ? while it is held loosely: see BindsKeys
    until  REAL                                 -- scope time: when it ends; queued: when jobs that replace each other must be due
) WITHOUT ROWID;

CREATE TABLE push_request (     -- pushes of the dedup window
    n         INTEGER PRIMARY KEY,
    request   TEXT NOT NULL UNIQUE,
    at        REAL NOT NULL,
    conflicts BLOB NOT NULL
);

CREATE TABLE paused (
    topic TEXT PRIMARY KEY
) WITHOUT ROWID;

PRAGMA user_version = 1;
