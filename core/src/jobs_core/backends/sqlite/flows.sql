-- The tables of flows, since schema version 4: see members.py and joining.py. Phases are those of members.Phase.

CREATE TABLE flow (
    n          INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    ttl        REAL    NOT NULL,
    created_at REAL    NOT NULL,
    open_until REAL,                            -- if its last part is missing: when it is dropped
    failed_at  REAL,                            -- when a member died last
    ended_at   REAL,
    kept_until REAL,                            -- once it has ended
    parts      INTEGER NOT NULL DEFAULT 0,      -- number of parts that are there
    cancelled  INTEGER NOT NULL DEFAULT 0,      -- 1 if it is; 2 if its finale still runs
    refuses    TEXT,                            -- why it takes no further part
    body       INTEGER NOT NULL,                -- groups, see below
    opening    INTEGER NOT NULL,
    total      INTEGER NOT NULL DEFAULT 0,      -- numbers of members: all, and by phase
    waiting    INTEGER NOT NULL DEFAULT 0,
    stuck      INTEGER NOT NULL DEFAULT 0,
    active     INTEGER NOT NULL DEFAULT 0,
    done       INTEGER NOT NULL DEFAULT 0,
    dead       INTEGER NOT NULL DEFAULT 0,
    gone       INTEGER NOT NULL DEFAULT 0       -- with those that were skipped
);
CREATE INDEX flow_open ON flow (open_until) WHERE open_until IS NOT NULL;
CREATE INDEX flow_kept ON flow (kept_until) WHERE kept_until IS NOT NULL;
CREATE INDEX flow_failed ON flow (failed_at) WHERE dead > 0 AND cancelled = 0;

CREATE TABLE flow_group (       -- stages; the body (its label is empty); the opening, after which members begin (no label)
    n      INTEGER PRIMARY KEY,
    flow   INTEGER NOT NULL,
    label  TEXT,
    finale INTEGER NOT NULL,
    live   INTEGER NOT NULL DEFAULT 0,          -- members that have not ended
    bad    INTEGER NOT NULL DEFAULT 0,          -- dead and stuck members
    gone   INTEGER NOT NULL DEFAULT 0,
    ended  INTEGER,                             -- the phase that was reported as its end
    seal   INTEGER                              -- its order, from when something is after it
);
CREATE UNIQUE INDEX flow_group_label ON flow_group (flow, label);
CREATE INDEX flow_group_over ON flow_group (flow) WHERE live = 0;

CREATE TABLE flow_member (      -- members; those of a flow of more than MOST_LISTED are deleted when they have ended for good
    seq       INTEGER PRIMARY KEY,              -- of its job; negative, so that other jobs look nothing up
    flow      INTEGER NOT NULL,
    id        TEXT    NOT NULL,
    topic     TEXT    NOT NULL,
    stage     INTEGER,                          -- a group
    finale    INTEGER NOT NULL,
    phase     INTEGER NOT NULL DEFAULT 0,
    awaits    INTEGER NOT NULL,                 -- targets that it still waits for
    stuck     INTEGER NOT NULL,                 -- of these, the dead and stuck ones
    failed    INTEGER NOT NULL,                 -- whether one of the others failed
    lost      INTEGER,                          -- the end of a target that keeps it from ever running; DEAD: the flow refused it
    if_failed INTEGER NOT NULL,                 -- whether it runs only if something failed
    delay     REAL    NOT NULL,
    place     TEXT    NOT NULL,                 -- JSON: stage, after, when, and label, as they were pushed
    inputs    TEXT,                             -- a JSON array of the ids whose results it takes
    seal      INTEGER,                          -- its order, if it was added to a stage that others wait for
    reason    TEXT                              -- why it is dead or gone
);
CREATE INDEX flow_member_flow ON flow_member (flow);
CREATE INDEX flow_member_waiting ON flow_member (topic) WHERE phase < 2;
CREATE INDEX flow_member_dead ON flow_member (flow) WHERE phase = 4;
CREATE INDEX flow_member_gone ON flow_member (flow, id) WHERE phase = 5;

CREATE TABLE flow_edge (        -- what members wait for
    target    INTEGER NOT NULL,                 -- a member or a group
    dependent INTEGER NOT NULL,
    any_end   INTEGER NOT NULL,                 -- whether any end of the target will do
    PRIMARY KEY (target, dependent, any_end)
) WITHOUT ROWID;

CREATE TABLE flow_work (        -- what follows, and was not carried out yet, in the order in which it has to be
    n      INTEGER PRIMARY KEY,
    flow   INTEGER NOT NULL,
    target INTEGER,                             -- a member or group that has ended
    ended  INTEGER NOT NULL,                    -- its end, WAITING if a dead letter is retried; or what to do with the whole flow
    after  INTEGER NOT NULL,                    -- dependents up to here have been told
    upto   INTEGER NOT NULL                     -- the last dependent at the end of the target
);
CREATE INDEX flow_work_flow ON flow_work (flow);

CREATE TABLE flow_result (      -- results of members, until the last member that takes it has ended
    n      INTEGER PRIMARY KEY,
    flow   INTEGER NOT NULL,
    id     TEXT    NOT NULL,
    takers INTEGER NOT NULL,
    result BLOB,
    UNIQUE (flow, id)
);
