-- The tables of flows, since schema version 2: see flows.sql. Plain jobs have no row in any of them. Phases are those of
-- flows.Phase. Each statement may be repeated.

CREATE SEQUENCE IF NOT EXISTS {s}.member_arrival MINVALUE -140737488355328 MAXVALUE -1 START -140737488355328;
CREATE SEQUENCE IF NOT EXISTS {s}.flow_number; -- of flows and groups; members have the negative numbers of their jobs

CREATE TABLE IF NOT EXISTS {s}.flow (
    n          bigint           PRIMARY KEY,
    id         text COLLATE "C" NOT NULL UNIQUE,
    name       text             NOT NULL,
    ttl        double precision NOT NULL,
    created_at double precision NOT NULL,
    open_until double precision,            -- if its last part is missing: when it is dropped
    failed_at  double precision,            -- when a member died last
    ended_at   double precision,
    kept_until double precision,            -- once it has ended
    parts      integer          NOT NULL DEFAULT 0, -- number of parts that are there
    cancelled  smallint         NOT NULL DEFAULT 0, -- 1 if it is; 2 if its finale still runs
    refuses    text,                        -- why it takes no further part
    body       bigint           NOT NULL,   -- groups, see below
    opening    bigint           NOT NULL,
    total      bigint           NOT NULL DEFAULT 0, -- numbers of members: all, and by phase
    waiting    bigint           NOT NULL DEFAULT 0,
    stuck      bigint           NOT NULL DEFAULT 0,
    active     bigint           NOT NULL DEFAULT 0,
    done       bigint           NOT NULL DEFAULT 0,
    dead       bigint           NOT NULL DEFAULT 0,
    gone       bigint           NOT NULL DEFAULT 0  -- with those that were skipped
);
CREATE INDEX IF NOT EXISTS flow_open ON {s}.flow (open_until) WHERE open_until IS NOT NULL;
CREATE INDEX IF NOT EXISTS flow_kept ON {s}.flow (kept_until) WHERE kept_until IS NOT NULL;
CREATE INDEX IF NOT EXISTS flow_failed ON {s}.flow (failed_at) WHERE dead > 0 AND cancelled = 0;

CREATE TABLE IF NOT EXISTS {s}.flow_group ( -- stages; the body (its label is empty); the opening, after which members begin (no label)
    n      bigint   PRIMARY KEY,
    flow   bigint   NOT NULL,
    label  text COLLATE "C",
    finale boolean  NOT NULL,
    live   bigint   NOT NULL DEFAULT 0,     -- members that have not ended
    bad    bigint   NOT NULL DEFAULT 0,     -- dead and stuck members
    gone   bigint   NOT NULL DEFAULT 0,
    ended  smallint,                        -- the phase that was reported as its end
    seal   bigint                           -- its order, from when something is after it
);
CREATE UNIQUE INDEX IF NOT EXISTS flow_group_label ON {s}.flow_group (flow, label);
CREATE INDEX IF NOT EXISTS flow_group_flow ON {s}.flow_group (flow, n);

CREATE TABLE IF NOT EXISTS {s}.flow_member ( -- those of a flow of more than MOST_LISTED are deleted when they have ended for good
    seq       bigint           PRIMARY KEY, -- of its job; negative, so that other jobs look nothing up
    flow      bigint           NOT NULL,
    id        text COLLATE "C" NOT NULL,
    topic     text COLLATE "C" NOT NULL,
    stage     bigint,                       -- a group
    finale    boolean          NOT NULL,
    phase     smallint         NOT NULL DEFAULT 0,
    awaits    integer          NOT NULL,    -- targets that it still waits for
    stuck     integer          NOT NULL,    -- of these, the dead and stuck ones
    failed    boolean          NOT NULL,    -- whether one of the others failed
    lost      smallint,                     -- the end of a target that keeps it from ever running; DEAD: the flow refused it
    if_failed boolean          NOT NULL,    -- whether it runs only if something failed
    delay     double precision NOT NULL,
    place     text             NOT NULL,    -- JSON: stage, after, when, and label, as they were pushed
    inputs    text[],                       -- the ids whose results it takes
    seal      bigint,                       -- its order, if it was added to a stage that others wait for
    reason    text                          -- why it is dead or gone
);
CREATE INDEX IF NOT EXISTS flow_member_flow ON {s}.flow_member (flow, seq);
CREATE INDEX IF NOT EXISTS flow_member_waiting ON {s}.flow_member (topic, seq) WHERE phase < 2;
CREATE INDEX IF NOT EXISTS flow_member_dead ON {s}.flow_member (flow, seq) WHERE phase = 4;
CREATE INDEX IF NOT EXISTS flow_member_gone ON {s}.flow_member (flow, id) WHERE phase = 5;

CREATE TABLE IF NOT EXISTS {s}.flow_edge ( -- what members wait for
    target    bigint  NOT NULL,             -- a member or a group
    dependent bigint  NOT NULL,
    any_end   boolean NOT NULL,             -- whether any end of the target will do
    PRIMARY KEY (target, dependent, any_end)
);

CREATE TABLE IF NOT EXISTS {s}.flow_work ( -- what follows, and was not carried out yet; of one flow, in the order in which it has to be
    n      bigint   GENERATED ALWAYS AS IDENTITY,
    flow   bigint   NOT NULL,
    target bigint,                          -- a member or group that has ended
    ended  smallint NOT NULL,               -- its end, WAITING if a dead letter is retried; or what to do with the whole flow
    after  bigint   NOT NULL,               -- dependents up to here have been told
    upto   bigint   NOT NULL,               -- the last dependent at the end of the target
    PRIMARY KEY (flow, n)
);

CREATE TABLE IF NOT EXISTS {s}.flow_left (flow bigint PRIMARY KEY); -- flows of which a step has left work to the next

CREATE TABLE IF NOT EXISTS {s}.flow_result ( -- results of members, until the last member that takes it has ended
    flow   bigint           NOT NULL,
    id     text COLLATE "C" NOT NULL,
    takers bigint           NOT NULL,
    result bytea,
    PRIMARY KEY (flow, id)
);

ALTER TABLE {s}.flow SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, fillfactor = 70);
ALTER TABLE {s}.flow_group SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, fillfactor = 70);
ALTER TABLE {s}.flow_member SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, fillfactor = 85);
ALTER TABLE {s}.flow_edge SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.flow_work SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
