-- The SQLite store, schema version 5. A job has a row in `job` from its push to its end; its state follows from this row
-- and from other tables:
--
--   ready       a row in `ready`                     reserved    a row in `reserved`
--   scheduled   `due` is set                         dead        `dead_at` is set
--   waiting     a row in `flow_member` with its phase
--   done with a result, or cancelled: no row in `job`, one in `ended`
--
-- Push, reserve and settle use only job, ready and reserved: push inserts into job and ready, reserve moves rows from
-- ready to reserved without changing job, and settle deletes from reserved and job. Times are Unix seconds of this host.

CREATE TABLE meta (             -- sequence, members: last number used; last_house...: time of housekeeping; readable_by: oldest
                                -- schema that may write; pushed:TOPIC, refused:TOPIC: jobs that pushes added, or did not add
    key   TEXT PRIMARY KEY,
    value NUMERIC NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('sequence', 0), ('members', -140737488355328), ('last_housekeep', 0), ('readable_by', 1);

CREATE TABLE job (
    seq          INTEGER PRIMARY KEY,           -- order of arrival, never reused; negative for members of flows
    id           TEXT    NOT NULL UNIQUE,
    topic        TEXT    NOT NULL,
    rank         INTEGER NOT NULL,              -- minus the priority: ascending order is the order of service
    ready_at     REAL,                          -- when it became ready, if not at pushed_at
    due          REAL,                          -- scheduled until then
    dead_at      REAL,                          -- dead since then
    reason       TEXT,                          -- why it is dead
    attempt      INTEGER NOT NULL DEFAULT 0,
    redeliveries INTEGER NOT NULL DEFAULT 0,
    crashes      INTEGER NOT NULL DEFAULT 0,
    deferrals    INTEGER NOT NULL DEFAULT 0,
    pushed_at    REAL    NOT NULL,
    unique_key   TEXT,                          -- the key it may hold in unique_key
    errors       BLOB,                          -- a JSON array of the newest errors
    payload      BLOB    NOT NULL,              -- the message, byte for byte
    key          TEXT,                          -- in a fair topic, keys take turns
    limits       TEXT                           -- a JSON array of the limits that it names; never NULL for members of flows
);
CREATE INDEX job_scheduled ON job (topic, due) WHERE due IS NOT NULL;
CREATE INDEX job_dead ON job (topic, dead_at) WHERE dead_at IS NOT NULL;

CREATE TABLE ready (            -- the ready jobs in order of service: by priority, then by the time at which they became ready
    topic TEXT    NOT NULL,
    rank  INTEGER NOT NULL,
    since REAL    NOT NULL,                     -- ready_at, or pushed_at
    seq   INTEGER NOT NULL,
    PRIMARY KEY (topic, rank, since, seq)
) WITHOUT ROWID;

CREATE TABLE reserved (
    token   INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so that a stale owner cannot settle
    seq     INTEGER NOT NULL,
    at      REAL    NOT NULL,                   -- when it was reserved
    owner   TEXT    NOT NULL,
    request TEXT    NOT NULL,
    slots   TEXT                                -- JSON: the limits whose slots it holds, each with the interval of the token taken
);

CREATE TABLE owner (
    id              TEXT PRIMARY KEY,
    lease_until     REAL NOT NULL,
    reserve_request TEXT NOT NULL DEFAULT '',   -- the last requests, to recognise a repeated one
    settle_request  TEXT NOT NULL DEFAULT '',
    settle_answers  BLOB,
    latest          REAL NOT NULL DEFAULT 0,    -- infinite, except for owners of releases without limits: see connection.py
    latest_before_4 REAL NOT NULL DEFAULT 0     -- likewise, except for owners of releases without flows
) WITHOUT ROWID;

CREATE TABLE cancel (           -- reserved jobs that are to be cancelled
    seq INTEGER PRIMARY KEY
);

CREATE TABLE checkpoint (       -- the cursors of resumable jobs; housekeeping deletes those of jobs that are gone
    seq    INTEGER PRIMARY KEY,
    cursor BLOB NOT NULL
);

CREATE TABLE ended (            -- results, and records of cancelled jobs
    id     TEXT PRIMARY KEY,
    topic  TEXT NOT NULL,
    state  TEXT NOT NULL,
    at     REAL NOT NULL,
    until  REAL NOT NULL,
    result BLOB                                 -- of a cancelled member of a flow: why
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

PRAGMA user_version = 5;
