-- Flows: the members, and what follows from their ends, by the rules of backends/flows.py; as backends/sqlite/members.py.
--
-- A step that changes a flow holds the row lock of `flow`, so that steps of one flow come one after the other. A step that
-- concerns several flows locks them in the order of their numbers (`lock_flows`), after the row of its owner and before any other
-- row; a step that is free to choose takes only flows whose lock is free. So no two steps wait for one another.
--
-- Phases: 0 waiting, 1 stuck, 2 active, 3 done, 4 dead, 5 gone, 6 skipped, 7 let (dead in a cancelled flow, where it counts as
-- gone). Work: the phase in which a target has ended; 0 takes a death back; -1 judges all groups, -2 sweeps a cancelled flow.
-- Functions that may make jobs ready return the topics of these, for the caller to wake workers after the commit.

CREATE OR REPLACE FUNCTION {s}.lock_flows(seqs bigint[]) RETURNS bigint[] LANGUAGE sql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
    SELECT array_agg(n) FROM (
        SELECT n FROM {s}.flow WHERE n IN (SELECT flow FROM {s}.flow_member WHERE seq = ANY (seqs)) ORDER BY n FOR UPDATE) AS f
$$;

-- End this transaction if its client, which may be frozen, sends nothing for five seconds: others wait for its locks.
CREATE OR REPLACE FUNCTION {s}.limit_idleness() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('idle_in_transaction_session_timeout', '5s', true);
END $$;

-- The members among jobs; NULL if there are none.
CREATE OR REPLACE FUNCTION {s}.members_of(seqs bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(seq) FROM unnest(seqs) AS seq WHERE seq < 0
$$;

CREATE OR REPLACE FUNCTION {s}.cancellation_lock(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended('{s} cancels ' || n, 0)
$$;

-- The topics of waiting members, each found in the index from the one before.
CREATE OR REPLACE FUNCTION {s}.waiting_topics() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    t text := '';
BEGIN
    LOOP
        SELECT topic INTO t FROM {s}.flow_member WHERE phase < 2 AND topic > t ORDER BY topic LIMIT 1;
        EXIT WHEN NOT FOUND;
        RETURN NEXT t;
    END LOOP;
END $$;

-- Whether a reserved member waits for nothing, and its flow is not cancelled.
CREATE OR REPLACE FUNCTION {s}.may_start(seq_ bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow
                    WHERE m.seq = seq_ AND m.phase = 2 AND NOT (f.cancelled = 1 OR f.cancelled = 2 AND NOT m.finale))
$$;

-- Whether a dead letter is of a flow that does not need it any more.
CREATE OR REPLACE FUNCTION {s}.is_dispensable(seq_ bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM {s}.flow_member WHERE seq = seq_ AND phase < 5)
$$;

-- -- phases ---------------------------------------------------------------------------------------------

-- Note the end of a group for the members that are after it; 0 takes a death back.
CREATE OR REPLACE FUNCTION {s}.follow_group(flow_ bigint, group_ bigint, ended_ integer) RETURNS void LANGUAGE sql AS $$
    INSERT INTO {s}.flow_work (flow, target, ended, after, upto)
    SELECT flow_, group_, ended_, -9000000000000000000, max(dependent) FROM {s}.flow_edge WHERE target = group_
    HAVING max(dependent) IS NOT NULL
$$;

-- Report the end of a stage or of the body once it has one, and take it back when a dead letter in it is retried.
CREATE OR REPLACE FUNCTION {s}.judge(g {s}.flow_group) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    end_ smallint := CASE WHEN g.live > 0 THEN NULL WHEN g.gone > 0 THEN 5 WHEN g.bad > 0 THEN 4 ELSE 3 END;
BEGIN
    IF end_ IS NOT DISTINCT FROM g.ended THEN
        RETURN;
    END IF;
    UPDATE {s}.flow_group SET ended = end_ WHERE n = g.n;
    IF g.ended IN (1, 4) AND (end_ IS NULL OR end_ NOT IN (1, 4)) THEN
        PERFORM {s}.follow_group(g.flow, g.n, 0);
    END IF;
    IF end_ IS NOT NULL THEN
        PERFORM {s}.follow_group(g.flow, g.n, end_);
    END IF;
END $$;

-- Move members to a phase, and note what follows; skip those that have ended for good. Callers proceed later.
CREATE OR REPLACE FUNCTION {s}.enter(seqs bigint[], phase_ integer, reason_ text, now_ double precision)
RETURNS void LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    final_ boolean := phase_ IN (3, 5, 6, 7);
    ended_ boolean := phase_ NOT IN (0, 2);
    those bigint[];
    takes boolean;
    was_bad boolean;
    large boolean;
    changed {s}.flow_group[];
    g {s}.flow_group;
BEGIN
    SELECT array_agg(m.seq), bool_or(m.inputs IS NOT NULL), bool_or(m.phase IN (1, 4)),
           bool_or(f.total > 1000 AND f.open_until IS NULL)
      INTO those, takes, was_bad, large
      FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow
     WHERE m.seq = ANY (seqs) AND m.phase IN (0, 1, 2, 4) AND m.phase <> phase_;
    IF those IS NULL THEN
        RETURN;
    END IF;
    UPDATE {s}.flow AS f SET
        waiting = f.waiting - c.waiting + CASE WHEN phase_ = 0 THEN c.n ELSE 0 END,
        stuck = f.stuck - c.stuck + CASE WHEN phase_ = 1 THEN c.n ELSE 0 END,
        active = f.active - c.active + CASE WHEN phase_ = 2 THEN c.n ELSE 0 END,
        done = f.done + CASE WHEN phase_ = 3 THEN c.n ELSE 0 END,
        dead = f.dead - c.dead + CASE WHEN phase_ IN (4, 7) THEN c.n ELSE 0 END,
        gone = f.gone + CASE WHEN phase_ IN (5, 6) THEN c.n ELSE 0 END,
        failed_at = CASE WHEN phase_ IN (4, 7) AND c.n > c.dead THEN now_ ELSE f.failed_at END
      FROM (SELECT flow, count(*) AS n, count(*) FILTER (WHERE phase = 0) AS waiting, count(*) FILTER (WHERE phase = 1) AS stuck,
                   count(*) FILTER (WHERE phase = 2) AS active, count(*) FILTER (WHERE phase = 4) AS dead
              FROM {s}.flow_member WHERE seq = ANY (those) GROUP BY flow) AS c
     WHERE f.n = c.flow;
    IF ended_ OR was_bad THEN -- from death to death, nothing follows
        INSERT INTO {s}.flow_work (flow, target, ended, after, upto)
        SELECT m.flow, m.seq, CASE WHEN NOT ended_ THEN 0 WHEN phase_ = 7 THEN 5 ELSE phase_ END, -9000000000000000000, e.last
          FROM {s}.flow_member AS m
          CROSS JOIN LATERAL (SELECT max(dependent) AS last FROM {s}.flow_edge WHERE target = m.seq) AS e
         WHERE m.seq = ANY (those) AND e.last IS NOT NULL
           AND CASE WHEN NOT ended_ THEN m.phase IN (1, 4) WHEN phase_ IN (1, 4) THEN m.phase IN (0, 2) ELSE true END
         ORDER BY m.seq;
    END IF;
    IF final_ AND takes THEN
        WITH taken AS (
            SELECT m.flow, i AS id, count(*) AS n FROM {s}.flow_member AS m CROSS JOIN LATERAL unnest(m.inputs) AS i
             WHERE m.seq = ANY (those) GROUP BY 1, 2),
        over AS (
            DELETE FROM {s}.flow_result AS r USING taken AS t WHERE r.flow = t.flow AND r.id = t.id AND r.takers <= t.n)
        UPDATE {s}.flow_result AS r SET takers = r.takers - t.n FROM taken AS t
         WHERE r.flow = t.flow AND r.id = t.id AND r.takers > t.n;
    END IF;
    WITH changes AS (
        SELECT x.n, sum((x.phase IN (1, 4))::integer - ended_::integer) AS live,
               sum((phase_ IN (1, 4))::integer - (x.phase IN (1, 4))::integer) AS bad, sum((phase_ IN (5, 7))::integer) AS gone
          FROM (SELECT unnest(ARRAY[m.stage, CASE WHEN NOT m.finale THEN f.body END]) AS n, m.phase
                  FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow WHERE m.seq = ANY (those)) AS x
         WHERE x.n IS NOT NULL GROUP BY 1),
    groups AS (
        UPDATE {s}.flow_group AS of SET live = of.live + c.live, bad = of.bad + c.bad, gone = of.gone + c.gone
          FROM changes AS c WHERE of.n = c.n AND (c.live <> 0 OR c.bad <> 0 OR c.gone <> 0) RETURNING of.*)
    SELECT array_agg(groups::{s}.flow_group) INTO changed FROM groups;
    IF final_ AND large THEN -- too large for a list of those that have ended
        DELETE FROM {s}.flow_member AS m USING {s}.flow AS f
         WHERE f.n = m.flow AND m.seq = ANY (those) AND f.total > 1000 AND f.open_until IS NULL;
    END IF;
    UPDATE {s}.flow_member SET phase = phase_, reason = reason_ WHERE seq = ANY (those);
    IF changed IS NOT NULL THEN
        FOREACH g IN ARRAY changed LOOP
            IF (SELECT open_until IS NULL FROM {s}.flow WHERE n = g.flow) THEN
                PERFORM {s}.judge(g);
            END IF;
        END LOOP;
    END IF;
END $$;

-- Note the end of one member. A dead letter of a cancelled flow cannot be retried.
CREATE OR REPLACE FUNCTION {s}.end_member(seq_ bigint, phase_ integer, reason_ text, result_ bytea, now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF phase_ = 4 AND (SELECT cancelled > 0 FROM {s}.flow JOIN {s}.flow_member ON n = flow WHERE seq = seq_) THEN
        phase_ := 7;
    END IF;
    IF result_ IS NOT NULL THEN
        UPDATE {s}.flow_result AS r SET result = result_ FROM {s}.flow_member AS m
         WHERE m.seq = seq_ AND r.flow = m.flow AND r.id = m.id;
    END IF;
    PERFORM {s}.enter(ARRAY[seq_], phase_, reason_, now_);
END $$;

-- Cancel members that are in no queue.
CREATE OR REPLACE FUNCTION {s}.cancel_members(seqs bigint[], phase_ integer, reason_ text, ttl double precision, now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {s}.enter(seqs, phase_, reason_, now_);
    PERFORM {s}.end_jobs(seqs, 'cancelled', ttl, convert_to(reason_, 'UTF8'), now_);
END $$;

-- Make members ready, or due after their delay, because all that they waited for has ended.
CREATE OR REPLACE FUNCTION {s}.start_members(seqs bigint[], later boolean, now_ double precision) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {s}.enter(seqs, 2, NULL, now_);
    IF later THEN
        WITH due AS (
            UPDATE {s}.job AS j SET since = least(now_ + m.delay, (
                       SELECT until FROM {s}.unique_key AS k
                        WHERE k.key = j.unique_key AND k.job_id = j.id AND k.scope = 'queued'))
              FROM {s}.flow_member AS m WHERE m.seq = j.seq AND j.seq = ANY (seqs)
            RETURNING j.topic, j.since, j.seq, j.rank, j.limits IS NOT NULL OR j.key IS NOT NULL)
        INSERT INTO {s}.scheduled SELECT * FROM due;
    ELSE
        UPDATE {s}.job SET since = now_ WHERE seq = ANY (seqs) AND since <> now_;
        PERFORM {s}.line_up(seqs, false);
    END IF;
END $$;

-- -- what follows ---------------------------------------------------------------------------------------

-- Decide the fate of members that are waiting or stuck.
CREATE OR REPLACE FUNCTION {s}.decide(seqs bigint[], ttl double precision, now_ double precision)
RETURNS text[] LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    met record;
    woken text[] := '{}';
BEGIN
    FOR met IN
        SELECT x.fate, array_agg(x.seq ORDER BY x.seq) AS seqs, array_agg(x.topic) AS topics FROM (
               SELECT m.seq, m.topic, m.phase, CASE
                      WHEN cancelled = 1 OR cancelled = 2 AND NOT finale THEN 'barred'
                      WHEN lost = 5 THEN 'gone'
                      WHEN lost = 6 THEN 'skipped'
                      WHEN awaits <= 0 AND open_until IS NOT NULL THEN 'opening'
                      WHEN awaits <= 0 AND if_failed AND NOT failed THEN 'needless'
                      WHEN awaits <= 0 AND delay > 0 THEN 'later'
                      WHEN awaits <= 0 THEN 'now'
                      WHEN m.stuck > 0 THEN 'stuck' ELSE 'waiting' END AS fate
                 FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow WHERE m.seq = ANY ($1) AND m.phase < 2) AS x
         WHERE (x.fate, x.phase) NOT IN (('waiting', 0), ('stuck', 1)) GROUP BY x.fate
    LOOP
        CASE met.fate
        WHEN 'barred' THEN
            PERFORM {s}.cancel_members(met.seqs, 5, 'its flow was cancelled', ttl, now_);
        WHEN 'gone' THEN
            PERFORM {s}.cancel_members(met.seqs, 5, 'a member that it waited for was cancelled or deleted', ttl, now_);
        WHEN 'skipped' THEN
            PERFORM {s}.cancel_members(met.seqs, 6, 'skipped: a member that it waited for was skipped', ttl, now_);
        WHEN 'needless' THEN
            PERFORM {s}.cancel_members(met.seqs, 6, 'skipped: nothing that it waited for had failed', ttl, now_);
        WHEN 'opening' THEN
            INSERT INTO {s}.flow_edge SELECT opening, seq, false FROM {s}.flow_member JOIN {s}.flow ON n = flow
             WHERE seq = ANY (met.seqs) ON CONFLICT DO NOTHING;
            UPDATE {s}.flow_member SET awaits = 1 WHERE seq = ANY (met.seqs);
        WHEN 'now' THEN
            PERFORM {s}.start_members(met.seqs, false, now_);
            woken := woken || met.topics;
        WHEN 'later' THEN
            PERFORM {s}.start_members(met.seqs, true, now_);
            woken := woken || met.topics;
        ELSE
            PERFORM {s}.enter(met.seqs, CASE met.fate WHEN 'stuck' THEN 1 ELSE 0 END, NULL, now_);
        END CASE;
    END LOOP;
    RETURN woken;
END $$;

-- Count the end of targets in the rows of the members that are after them, and decide their fate: those up to `cut`, or all.
CREATE OR REPLACE FUNCTION {s}.tell_members(
    flows bigint[], notes bigint[], ended_ integer, cut bigint, ttl double precision, now_ double precision)
RETURNS text[] LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    told bigint[];
BEGIN
    WITH ends AS (
        SELECT e.dependent, count(*) FILTER (WHERE e.any_end) AS any_ends, count(*) FILTER (WHERE NOT e.any_end) AS needs
          FROM {s}.flow_work AS w JOIN {s}.flow_edge AS e
               ON e.target = w.target AND e.dependent > w.after AND e.dependent <= least(w.upto, cut)
         WHERE w.flow = ANY (flows) AND w.n = ANY (notes) AND (NOT e.any_end OR ended_ <> 0) GROUP BY 1),
    counted AS (
        UPDATE {s}.flow_member AS m SET
            awaits = m.awaits - CASE WHEN ended_ = 3 THEN e.needs + e.any_ends ELSE e.any_ends END,
            stuck = m.stuck + CASE WHEN ended_ IN (1, 4) THEN e.needs WHEN ended_ = 0 THEN -e.needs ELSE 0 END,
            failed = m.failed OR e.any_ends > 0 AND ended_ IN (1, 4, 5),
            lost = coalesce(m.lost, CASE WHEN e.needs > 0 AND ended_ IN (5, 6) THEN ended_ END)
          FROM ends AS e WHERE m.seq = e.dependent RETURNING m.seq)
    SELECT array_agg(seq) INTO told FROM counted;
    IF ended_ <> 0 THEN
        DELETE FROM {s}.flow_edge AS e USING {s}.flow_work AS w
         WHERE w.flow = ANY (flows) AND w.n = ANY (notes) AND e.target = w.target
           AND e.dependent > w.after AND e.dependent <= least(w.upto, cut) AND (e.any_end OR ended_ NOT IN (1, 4));
    END IF;
    IF cut IS NULL THEN
        DELETE FROM {s}.flow_work WHERE flow = ANY (flows) AND n = ANY (notes);
    ELSE
        UPDATE {s}.flow_work SET after = cut WHERE flow = ANY (flows) AND n = ANY (notes);
    END IF;
    RETURN CASE WHEN told IS NULL THEN '{}' ELSE {s}.decide(told, ttl, now_) END;
END $$;

-- Report the ends of groups in which nothing was left before the flow was closed; return how many were looked at.
CREATE OR REPLACE FUNCTION {s}.judge_some(w {s}.flow_work, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    groups {s}.flow_group[] := ARRAY(
        SELECT each FROM {s}.flow_group AS each WHERE each.flow = w.flow AND each.n > w.after ORDER BY each.n LIMIT most);
    g {s}.flow_group;
BEGIN
    IF cardinality(groups) = most THEN
        UPDATE {s}.flow_work SET after = groups[most].n WHERE flow = w.flow AND n = w.n;
    ELSE
        DELETE FROM {s}.flow_work WHERE flow = w.flow AND n = w.n;
    END IF;
    FOREACH g IN ARRAY groups LOOP
        IF g.live = 0 THEN
            PERFORM {s}.judge(g);
        END IF;
    END LOOP;
    RETURN cardinality(groups);
END $$;

-- Take members out of the queue, except for those that are just being reserved: their worker finds that they are barred.
CREATE OR REPLACE FUNCTION {s}.dequeue_free(seqs bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    found_ bigint[];
BEGIN
    WITH free AS (
        SELECT r.ctid FROM {s}.ready AS r JOIN {s}.job AS j ON (r.topic, r.rank, r.since, r.seq) = (j.topic, j.rank, j.since, j.seq)
         WHERE j.seq = ANY (seqs) FOR UPDATE OF r SKIP LOCKED),
    plain AS (DELETE FROM {s}.ready WHERE ctid = ANY (ARRAY(SELECT ctid FROM free)) RETURNING seq),
    due AS (SELECT ctid FROM {s}.scheduled WHERE seq = ANY (seqs) FOR UPDATE SKIP LOCKED),
    later AS (DELETE FROM {s}.scheduled WHERE ctid = ANY (ARRAY(SELECT ctid FROM due)) RETURNING seq)
    SELECT array_agg(seq) INTO found_ FROM (SELECT seq FROM plain UNION ALL SELECT seq FROM later) AS gone;
    RETURN coalesce(found_, '{}') || {s}.leave_lines(seqs);
END $$;

-- Remove members of a cancelled flow that are not reserved; give up its dead letters. Returns how many were looked at.
CREATE OR REPLACE FUNCTION {s}.sweep(w {s}.flow_work, most integer, ttl double precision, now_ double precision)
RETURNS integer LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    looked integer;
    last bigint;
    dead_ bigint[];
    waiting_ bigint[];
    queued bigint[];
BEGIN
    SELECT count(*), max(seq), array_agg(seq) FILTER (WHERE phase = 4), array_agg(seq) FILTER (WHERE phase < 2 AND swept),
           array_agg(seq) FILTER (WHERE phase = 2 AND swept)
      INTO looked, last, dead_, waiting_, queued FROM (
           SELECT m.seq, m.phase, f.cancelled = 1 OR NOT m.finale AS swept FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow
            WHERE m.flow = w.flow AND m.seq > w.after ORDER BY m.seq LIMIT most) AS part;
    IF looked = most THEN
        UPDATE {s}.flow_work SET after = last WHERE flow = w.flow AND n = w.n;
    ELSE
        DELETE FROM {s}.flow_work WHERE flow = w.flow AND n = w.n;
    END IF;
    IF dead_ IS NOT NULL THEN
        PERFORM {s}.enter(dead_, 7, NULL, now_);
    END IF;
    IF queued IS NOT NULL THEN
        waiting_ := waiting_ || {s}.dequeue_free(queued);
    END IF;
    IF cardinality(waiting_) > 0 THEN
        PERFORM {s}.cancel_members(waiting_, 5, 'its flow was cancelled', ttl, now_);
    END IF;
    RETURN looked;
END $$;

-- Take one or more of the oldest notes of these flows, for up to `most` members; `decided` is NULL if there was none.
CREATE OR REPLACE FUNCTION {s}.take_step(
    flows bigint[], most integer, ttl double precision, now_ double precision, OUT decided integer, OUT woken text[])
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    w record;
    first {s}.flow_work;
    notes bigint[] := '{}';
    targets bigint[] := '{}';
    edges bigint := 0;
    cut bigint;
BEGIN
    woken := '{}';
    FOR w IN
        SELECT work, (SELECT count(*) FROM (
               SELECT FROM {s}.flow_edge AS e WHERE e.target = work.target AND e.dependent > work.after AND e.dependent <= work.upto
                LIMIT most) AS part) AS edges
          FROM {s}.flow_work AS work WHERE work.flow = ANY (flows) ORDER BY work.n LIMIT most
    LOOP
        IF cardinality(notes) = 0 THEN
            first := w.work;
        ELSIF (w.work).ended <> first.ended OR (w.work).target IS NULL OR (w.work).target = ANY (targets)
            OR edges + w.edges > most THEN
            EXIT;
        END IF;
        notes := notes || (w.work).n;
        targets := targets || (w.work).target;
        edges := edges + w.edges;
        EXIT WHEN first.target IS NULL OR edges >= most;
    END LOOP;
    IF cardinality(notes) = 0 THEN
        RETURN;
    ELSIF first.target IS NOT NULL THEN
        IF edges >= most AND cardinality(notes) = 1 THEN
            SELECT dependent INTO cut FROM {s}.flow_edge
             WHERE target = first.target AND dependent > first.after AND dependent <= first.upto
             ORDER BY dependent OFFSET most - 1 LIMIT 1;
        END IF;
        woken := {s}.tell_members(flows, notes, first.ended, cut, ttl, now_);
        decided := edges;
    ELSIF first.ended = -2 THEN
        decided := {s}.sweep(first, most, ttl, now_);
    ELSE
        decided := {s}.judge_some(first, most);
    END IF;
END $$;

-- Carry on with what follows in flows that the caller has locked, for up to `most` members; note the ends of these flows.
CREATE OR REPLACE FUNCTION {s}.proceed(flows bigint[], most integer, ttl double precision, now_ double precision)
RETURNS text[] LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    step record;
    woken text[] := '{}';
    rested text[];
BEGIN
    LOOP
        IF most <= 0 THEN -- wake somebody, because this worker may be busy from now on
            INSERT INTO {s}.flow_left SELECT DISTINCT flow FROM {s}.flow_work WHERE flow = ANY (flows) ON CONFLICT DO NOTHING;
            woken := woken || ARRAY(
                SELECT (SELECT topic FROM {s}.flow_member AS m WHERE m.flow = w.flow LIMIT 1) FROM (
                       SELECT flow FROM {s}.flow_work WHERE flow = ANY (flows) LIMIT 1) AS w);
            EXIT;
        END IF;
        SELECT * INTO step FROM {s}.take_step(flows, most, ttl, now_);
        EXIT WHEN step.decided IS NULL;
        most := most - greatest(1, step.decided);
        woken := woken || step.woken;
    END LOOP;
    DELETE FROM {s}.flow_left AS l WHERE l.flow = ANY (flows) AND NOT EXISTS (SELECT FROM {s}.flow_work AS w WHERE w.flow = l.flow);
    UPDATE {s}.flow AS f SET ended_at = now_, kept_until = now_ + f.ttl
     WHERE f.n = ANY (flows) AND f.open_until IS NULL AND f.ended_at IS NULL AND f.waiting + f.stuck + f.active = 0
       AND (f.dead = 0 OR f.cancelled > 0) AND NOT EXISTS (SELECT FROM {s}.flow_work AS w WHERE w.flow = f.n);
    SELECT array_agg(id) INTO rested FROM {s}.flow WHERE n = ANY (flows) AND waiting + active = 0;
    IF rested IS NOT NULL THEN
        PERFORM {s}.tell(rested);
    END IF;
    RETURN woken;
END $$;

-- Carry on with flows of which a step has left work, unless somebody else is doing so; return the topics of ready jobs.
CREATE OR REPLACE FUNCTION {s}.carry_on(most integer, ttl double precision) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    n_ bigint;
BEGIN
    SELECT n INTO n_ FROM {s}.flow WHERE n = ANY (ARRAY(SELECT flow FROM {s}.flow_left ORDER BY flow LIMIT 100)) LIMIT 1
       FOR UPDATE SKIP LOCKED;
    RETURN CASE WHEN FOUND THEN {s}.proceed(ARRAY[n_], most, ttl, {s}.now_()) ELSE '{}' END;
END $$;

-- Note that members, whose flows are locked, were removed by somebody else than their flow.
CREATE OR REPLACE FUNCTION {s}.members_left(flows bigint[], seqs bigint[], ttl double precision, now_ double precision)
RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {s}.enter(seqs, 5, NULL, now_);
    RETURN {s}.proceed(flows, 1000, ttl, now_);
END $$;

-- Settle done members and other jobs, as `settle_done` does; return the topics of jobs that are ready now, too.
CREATE OR REPLACE FUNCTION {s}.settle_done_members(
    owner_ text, request_ text, before text, again boolean, seqs bigint[], requests text[], ttl double precision,
    OUT answers text, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    flows bigint[];
BEGIN
    woken := '{}';
    PERFORM FROM {s}.owner WHERE id = owner_ FOR KEY SHARE;
    flows := {s}.lock_flows({s}.members_of(seqs));
    answers := {s}.settle_done(owner_, request_, before, again, seqs, requests);
    IF {s}.enter_done(seqs, answers, now_) THEN
        woken := {s}.proceed(flows, 1000, ttl, now_);
    END IF;
END $$;

-- Note the ends of the members among done jobs that were settled; return whether there are any.
CREATE OR REPLACE FUNCTION {s}.enter_done(seqs bigint[], answers text, now_ double precision) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ended_ bigint[] := ARRAY(
        SELECT seq FROM unnest(seqs) WITH ORDINALITY AS t (seq, n) WHERE seq < 0 AND substr(answers, n::integer, 1) = 's');
BEGIN
    IF ended_ = '{}' THEN
        RETURN false;
    END IF;
    PERFORM {s}.enter(ended_, 3, NULL, now_);
    RETURN true;
END $$;

-- The same of members with slots.
CREATE OR REPLACE FUNCTION {s}.settle_holding_members(
    owner_ text, request_ text, before text, again boolean, seqs bigint[], requests text[], ttl double precision, ran boolean[],
    OUT answers text, OUT woken text[])
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM {s}.owner WHERE id = owner_ FOR KEY SHARE;
    PERFORM {s}.lock_flows({s}.members_of(seqs));
    PERFORM {s}.free_held(owner_, seqs, requests, ran);
    SELECT d.answers, d.woken INTO answers, woken
      FROM {s}.settle_done_members(owner_, request_, before, again, seqs, requests, ttl) AS d;
END $$;

-- -- reserved members -----------------------------------------------------------------------------------

-- The flows of members that were just reserved, whether they must not start, and the results that they take, as many as fit
-- into `most` bytes. A cancellation that is being decided is waited for: so either it sees the reservation, or is seen here.
CREATE OR REPLACE FUNCTION {s}.deliver_members(seqs bigint[], most bigint)
RETURNS TABLE (seq bigint, flow text, barred boolean, ids text[], results bytea[]) LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock_shared({s}.cancellation_lock(f.flow)) FROM (
        SELECT DISTINCT m.flow FROM {s}.flow_member AS m WHERE m.seq = ANY (seqs) ORDER BY 1) AS f;
    RETURN QUERY
        SELECT m.seq, f.id, f.cancelled = 1 OR f.cancelled = 2 AND NOT m.finale, r.ids, r.results
          FROM {s}.flow_member AS m JOIN {s}.flow AS f ON f.n = m.flow
          LEFT JOIN LATERAL (
               SELECT array_agg(fits.id ORDER BY fits.n) AS ids, array_agg(fits.result ORDER BY fits.n) AS results FROM (
                      SELECT i.id, i.n, r.result, sum(length(r.result)) OVER (ORDER BY i.n) AS size
                        FROM unnest(m.inputs) WITH ORDINALITY AS i (id, n) JOIN {s}.flow_result AS r ON r.flow = f.n AND r.id = i.id
                       WHERE r.result IS NOT NULL) AS fits
                WHERE fits.size <= most) AS r ON m.inputs IS NOT NULL
         WHERE m.seq = ANY (seqs);
END $$;

-- Remove members of cancelled flows that this owner has reserved with a request.
CREATE OR REPLACE FUNCTION {s}.drop_barred(owner_ text, request_ text, seqs bigint[], ttl double precision)
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    flows bigint[] := {s}.lock_flows(seqs);
    gone bigint[];
    held jsonb[];
BEGIN
    WITH gone AS (DELETE FROM {s}.reserved WHERE seq = ANY (seqs) AND owner = owner_ AND request = request_ RETURNING seq, slots)
    SELECT array_agg(seq), array_agg(slots) FILTER (WHERE slots IS NOT NULL) INTO gone, held FROM gone;
    IF held IS NOT NULL THEN
        PERFORM {s}.free(held, false);
    END IF;
    IF gone IS NOT NULL THEN
        PERFORM {s}.cancel_members(gone, 5, 'its flow was cancelled', ttl, now_);
    END IF;
    RETURN {s}.proceed(flows, 1000, ttl, now_);
END $$;

-- -- new members ----------------------------------------------------------------------------------------

-- What is known of the members and stages that new members name, with numbers for `count_` members, and for a flow, two groups
-- and as many as there are labels. The caller has locked the flow, if there is one.
CREATE OR REPLACE FUNCTION {s}.place_facts(flow_ bigint, ids text[], labels text[], count_ integer) RETURNS jsonb LANGUAGE sql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
    SELECT jsonb_build_object(
        'flow', (SELECT jsonb_build_array(f.n, f.id, f.open_until IS NULL, f.cancelled, f.body, f.opening, b.ended)
                   FROM {s}.flow AS f JOIN {s}.flow_group AS b ON b.n = f.body WHERE f.n = flow_),
        'members', (SELECT jsonb_agg(jsonb_build_array(m.id, m.seq, m.phase, m.finale, coalesce(g.label, ''), coalesce(m.seal, 4 * m.seq)))
                      FROM {s}.job AS j JOIN {s}.flow_member AS m ON m.seq = j.seq LEFT JOIN {s}.flow_group AS g ON g.n = m.stage
                     WHERE j.id = ANY (ids) AND m.flow = flow_),
        'stages', (SELECT jsonb_agg(jsonb_build_array(label, n, finale, ended, seal))
                     FROM {s}.flow_group WHERE flow = flow_ AND label = ANY (labels)),
        'gone', (SELECT jsonb_agg(id) FROM {s}.flow_member WHERE flow = flow_ AND id = ANY (ids) AND phase = 5),
        'seqs', ARRAY(SELECT nextval('{s}.member_arrival') FROM generate_series(1, count_)),
        'groups', ARRAY(SELECT nextval('{s}.flow_number') FROM generate_series(1, cardinality(labels) + 3)))
$$;

-- Store new members, whose flow is locked: rows of members as JSON, with their jobs, and what changes in groups.
CREATE OR REPLACE FUNCTION {s}.add_members(
    flow_ bigint, members jsonb, payloads bytea[], groups jsonb, edges jsonb, takers jsonb, at_once bigint[],
    ttl double precision)
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    added integer;
BEGIN
    INSERT INTO {s}.job (seq, id, topic, rank, since, pushed_at, unique_key, key, limits, payload)
    SELECT m.seq, m.id, m.topic, m.rank, now_, now_, m.u, m.k, m.l, m.payload FROM ROWS FROM (
           jsonb_to_recordset(members) AS (seq bigint, id text, topic text, rank smallint, u text, k text, l text[]),
           unnest(payloads)) AS m (seq, id, topic, rank, u, k, l, payload);
    INSERT INTO {s}.flow_member (seq, flow, id, topic, stage, finale, awaits, stuck, failed, lost, if_failed, delay, place, inputs, seal)
    SELECT m.seq, flow_, m.id, m.topic, m.stage, m.finale, m.awaits, m.stuck, m.failed, m.lost, m.if_failed, m.delay, m.place,
           m.inputs, m.seal
      FROM jsonb_to_recordset(members) AS m (
           seq bigint, id text, topic text, stage bigint, finale boolean, awaits integer, stuck integer, failed boolean,
           lost smallint, if_failed boolean, delay double precision, place text, inputs text[], seal bigint);
    GET DIAGNOSTICS added = ROW_COUNT;
    INSERT INTO {s}.pushed SELECT m.topic, count(*), 0 FROM jsonb_to_recordset(members) AS m (topic text) GROUP BY 1;
    INSERT INTO {s}.flow_edge SELECT (e ->> 0)::bigint, (e ->> 1)::bigint, (e ->> 2)::boolean FROM jsonb_array_elements(edges) AS e;
    INSERT INTO {s}.flow_group AS g (n, flow, label, finale, live, seal)
    SELECT c.n, flow_, c.label, c.finale, c.live, c.seal
      FROM jsonb_to_recordset(groups) AS c (n bigint, label text, finale boolean, live bigint, seal bigint)
        ON CONFLICT (n) DO UPDATE SET live = g.live + excluded.live, seal = coalesce(excluded.seal, g.seal),
                                      ended = CASE WHEN excluded.live > 0 THEN NULL ELSE g.ended END;
    INSERT INTO {s}.flow_result AS r (flow, id, takers)
    SELECT flow_, t.key, t.value::bigint FROM jsonb_each_text(takers) AS t
        ON CONFLICT (flow, id) DO UPDATE SET takers = r.takers + excluded.takers;
    UPDATE {s}.flow SET total = total + added, waiting = waiting + added WHERE n = flow_;
    RETURN CASE WHEN at_once = '{}' THEN '{}' ELSE {s}.decide(at_once, ttl, now_) END;
END $$;

-- Give a message its unique key; return the holder if that is in the way.
CREATE OR REPLACE FUNCTION {s}.take_key(m jsonb, ttl double precision) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    held record;
    gone bigint[];
    lim double precision;
    until_ double precision := now_ + (m ->> 'h')::double precision;
BEGIN
    IF m ->> 'u' IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('{s}' || (m ->> 'u'), 0));
    SELECT job_id, scope, loose, until INTO held FROM {s}.unique_key
     WHERE key = m ->> 'u' AND (until IS NULL OR until > now_) FOR UPDATE;
    IF FOUND THEN
        IF m ->> 'o' = 'replace' OR held.loose THEN
            SELECT {s}.dequeue(array_agg(seq)) INTO gone FROM {s}.job WHERE id = held.job_id AND seq > 0;
        END IF;
        IF coalesce(cardinality(gone), 0) = 0 THEN
            RETURN held.job_id;
        END IF;
        IF held.scope = 'queued' THEN
            lim := held.until;
        END IF;
        PERFORM {s}.end_jobs(gone, 'cancelled', ttl, NULL, now_);
    END IF;
    IF until_ IS NOT NULL AND m ->> 's' <> 'time' THEN
        until_ := least(until_, lim);
    END IF;
    INSERT INTO {s}.unique_key VALUES (m ->> 'u', m ->> 'i', m ->> 's', false, until_)
        ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, scope = excluded.scope, loose = excluded.loose, until = excluded.until;
    RETURN NULL;
END $$;

-- Store a dead letter that is in no flow.
CREATE OR REPLACE FUNCTION {s}.add_stranger(messages jsonb, payloads bytea[], reason_ text, dead_max integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    seq_ bigint := nextval('{s}.arrival');
    now_ double precision := {s}.now_();
    m jsonb := messages -> 0;
BEGIN
    INSERT INTO {s}.job (seq, id, topic, rank, since, pushed_at, key, payload)
    VALUES (seq_, m ->> 'i', m ->> 't', (m ->> 'r')::smallint, now_, now_, m ->> 'k', payloads[1]);
    PERFORM {s}.make_dead(seq_, reason_, NULL, 0, dead_max, now_);
END $$;

-- Note that a flow did not admit a member that was just added: it is dead from the start, and cannot be retried.
CREATE OR REPLACE FUNCTION {s}.refuse_member(seq_ bigint, reason_ text, dead_max integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
BEGIN
    UPDATE {s}.flow_member SET lost = 4, seal = -9000000000000000000 WHERE seq = seq_; -- it waits for no stage
    PERFORM {s}.end_member(seq_, 4, reason_, NULL, now_);
    PERFORM {s}.make_dead(seq_, reason_, NULL, 0, dead_max, now_);
END $$;

-- Cancel a member that was just added to a cancelled flow.
CREATE OR REPLACE FUNCTION {s}.bar_member(seq_ bigint, ttl double precision) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {s}.flow_member WHERE seq = seq_ AND phase < 2) THEN
        PERFORM {s}.cancel_members(ARRAY[seq_], 5, 'its flow was cancelled', ttl, {s}.now_());
    END IF;
END $$;

-- For each message that a part would not add, its id and the id that is in its way; locks the unique keys.
CREATE OR REPLACE FUNCTION {s}.part_conflicts(messages jsonb) RETURNS jsonb LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    now_ double precision := {s}.now_();
    found_ jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('{s}' || key, 0)) FROM (
        SELECT DISTINCT value ->> 'u' AS key FROM jsonb_array_elements(messages) WHERE value ? 'u' ORDER BY 1) AS keys;
    SELECT jsonb_object_agg(c.id, c.holder) INTO found_ FROM (
        SELECT m.id, CASE
               WHEN j.seq IS NOT NULL OR m.chosen AND EXISTS (SELECT FROM {s}.ended WHERE ended.id = m.id AND until > now_) THEN m.id
               WHEN m.key IS NOT NULL AND m.first <> m.id THEN m.first
               WHEN k.job_id IS NOT NULL AND NOT (
                    (m.conflict = 'replace' OR k.loose) AND h.seq > 0 AND NOT EXISTS (SELECT FROM {s}.reserved AS r WHERE r.seq = h.seq)
                    AND NOT EXISTS (SELECT FROM {s}.dead AS d WHERE d.seq = h.seq)) THEN k.job_id
               END AS holder
          FROM (SELECT value ->> 'i' AS id, value ->> 'u' AS key, value ->> 'o' AS conflict,
                       coalesce((value ->> 'c')::boolean, false) AS chosen,
                       first_value(value ->> 'i') OVER (PARTITION BY value ->> 'u' ORDER BY n) AS first
                  FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (value, n)) AS m
          LEFT JOIN {s}.job AS j ON j.id = m.id
          LEFT JOIN {s}.unique_key AS k ON k.key = m.key AND (k.until IS NULL OR k.until > now_)
          LEFT JOIN {s}.job AS h ON h.id = k.job_id) AS c
     WHERE c.holder IS NOT NULL;
    RETURN coalesce(found_, '{}');
END $$;

-- Begin to add a part: lock its flow, and return what `place_facts` does, or why there is nothing to add.
CREATE OR REPLACE FUNCTION {s}.begin_part(request_ text, id_ text, number integer, messages jsonb, ids text[], labels text[])
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f {s}.flow;
    conflicts_ jsonb;
BEGIN
    INSERT INTO {s}.push_request VALUES (request_, {s}.now_(), '{}') ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('answer', (SELECT conflicts FROM {s}.push_request WHERE request = request_));
    END IF;
    PERFORM {s}.limit_idleness();
    PERFORM pg_advisory_xact_lock(hashtextextended('{s} flow ' || id_, 0));
    SELECT * INTO f FROM {s}.flow WHERE id = id_ FOR UPDATE;
    IF NOT FOUND AND number > 0 THEN
        RETURN jsonb_build_object('lost', 'is unknown: it was dropped, because its parts came too slowly');
    ELSIF f.refuses IS NOT NULL THEN
        RETURN jsonb_build_object('lost', f.refuses);
    ELSIF f.n IS NOT NULL AND (f.open_until IS NULL OR number < f.parts) THEN
        RETURN jsonb_build_object('answer', jsonb '{}');
    ELSIF number > coalesce(f.parts, 0) THEN
        RETURN jsonb_build_object('parts', f.parts);
    END IF;
    conflicts_ := {s}.part_conflicts(messages);
    IF conflicts_ <> '{}' THEN
        UPDATE {s}.push_request SET conflicts = conflicts_ WHERE request = request_;
        INSERT INTO {s}.pushed SELECT m ->> 't', 0, count(*) FROM jsonb_array_elements(messages) AS m
         WHERE conflicts_ ? (m ->> 'i') GROUP BY 1;
        RETURN jsonb_build_object('answer', conflicts_);
    END IF;
    RETURN {s}.place_facts(f.n, ids, labels, jsonb_array_length(messages));
END $$;

-- Store a part, whose flow is new if `new_` is not NULL: its number, body and opening.
CREATE OR REPLACE FUNCTION {s}.end_part(
    flow_ bigint, new_ bigint[], part jsonb, keyed jsonb, members jsonb, payloads bytea[], groups jsonb, edges jsonb, takers jsonb,
    at_once bigint[], ttl double precision)
RETURNS text[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_ double precision := {s}.now_();
    last boolean := (part ->> 'last')::boolean;
    woken text[];
BEGIN
    IF new_ IS NOT NULL THEN
        INSERT INTO {s}.flow (n, id, name, ttl, created_at, open_until, body, opening)
        VALUES (flow_, part ->> 'id', part ->> 'name', (part ->> 'ttl')::double precision, now_, now_, new_[1], new_[2]);
        INSERT INTO {s}.flow_group (n, flow, label, finale) VALUES (new_[1], flow_, '', false), (new_[2], flow_, NULL, false);
    END IF;
    PERFORM {s}.take_key(m, ttl) FROM jsonb_array_elements(keyed) AS m;
    woken := {s}.add_members(flow_, members, payloads, groups, edges, takers, at_once, ttl);
    UPDATE {s}.flow SET parts = (part ->> 'number')::integer + 1, open_until = now_ + (part ->> 'open_for')::double precision
     WHERE n = flow_;
    IF last THEN
        PERFORM {s}.close_flow(flow_);
    END IF;
    RETURN woken || {s}.proceed(ARRAY[flow_], 1000, ttl, now_);
END $$;

-- Let a flow begin: nothing may be added now but by its members.
CREATE OR REPLACE FUNCTION {s}.close_flow(flow_ bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    opening_ bigint;
BEGIN
    UPDATE {s}.flow SET open_until = NULL WHERE n = flow_ RETURNING opening INTO opening_;
    PERFORM {s}.follow_group(flow_, opening_, 3);
    INSERT INTO {s}.flow_work (flow, ended, after, upto) VALUES (flow_, -1, -9000000000000000000, 9000000000000000000);
END $$;

-- -- operators ------------------------------------------------------------------------------------------

-- Decide that a flow, whose row is locked, is cancelled; return the owners of running members, who are to be told.
CREATE OR REPLACE FUNCTION {s}.decide_cancellation(flow_ bigint, refuses_ text, finale_ boolean) RETURNS text[] LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    f {s}.flow;
    running bigint[];
    owners text[];
BEGIN
    SELECT * INTO f FROM {s}.flow WHERE n = flow_;
    PERFORM pg_advisory_xact_lock({s}.cancellation_lock(flow_));
    UPDATE {s}.flow SET cancelled = CASE WHEN finale_ AND f.open_until IS NULL AND f.cancelled <> 1 THEN 2 ELSE 1 END WHERE n = flow_
        RETURNING * INTO f;
    IF f.active > 0 THEN
        running := ARRAY(SELECT seq FROM {s}.reserved WHERE seq < 0);
        running := ARRAY(SELECT seq FROM {s}.flow_member WHERE seq = ANY (running) AND flow = flow_ AND (f.cancelled = 1 OR NOT finale));
        INSERT INTO {s}.cancel SELECT m.seq, m.id, false FROM {s}.flow_member AS m JOIN {s}.reserved AS r USING (seq)
         WHERE m.seq = ANY (running) ON CONFLICT DO NOTHING;
        SELECT array_agg(DISTINCT owner) INTO owners FROM {s}.reserved WHERE seq = ANY (running);
    END IF;
    IF f.open_until IS NOT NULL THEN
        UPDATE {s}.flow SET refuses = refuses_ WHERE n = flow_;
        PERFORM {s}.close_flow(flow_);
    END IF;
    INSERT INTO {s}.flow_work (flow, ended, after, upto) VALUES (flow_, -2, -9000000000000000000, 9000000000000000000);
    INSERT INTO {s}.flow_left VALUES (flow_) ON CONFLICT DO NOTHING;
    RETURN coalesce(owners, '{}');
END $$;

-- Cancel a flow; return the owners that are to be told, NULL if it is unknown or has ended.
CREATE OR REPLACE FUNCTION {s}.cancel_flow(id_ text, finale_ boolean) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    n_ bigint;
BEGIN
    SELECT n INTO n_ FROM {s}.flow WHERE id = id_ AND ended_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN {s}.decide_cancellation(n_, 'was cancelled', finale_);
END $$;

-- Carry on with what follows in a flow.
CREATE OR REPLACE FUNCTION {s}.proceed_flow(id_ text, most integer, ttl double precision) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    n_ bigint;
BEGIN
    SELECT n INTO n_ FROM {s}.flow WHERE id = id_ FOR UPDATE;
    RETURN CASE WHEN FOUND THEN {s}.proceed(ARRAY[n_], most, ttl, {s}.now_()) ELSE '{}' END;
END $$;

-- Requeue dead members, whose flows are locked: run them at once, or let them wait again.
CREATE OR REPLACE FUNCTION {s}.retry_members(flows bigint[], seqs bigint[], ttl double precision, now_ double precision)
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    woken text[];
BEGIN
    DELETE FROM {s}.dead WHERE seq = ANY (seqs);
    UPDATE {s}.job SET attempt = 0, redeliveries = 0, crashes = 0, deferrals = 0 WHERE seq = ANY (seqs);
    UPDATE {s}.flow_member SET delay = 0 WHERE seq = ANY (seqs) AND delay > 0 AND awaits <= 0;
    PERFORM {s}.enter(seqs, 0, NULL, now_);
    woken := {s}.decide(seqs, ttl, now_);
    RETURN woken || {s}.proceed(flows, 1000, ttl, now_);
END $$;

CREATE OR REPLACE FUNCTION {s}.retry_flow(id_ text, most integer, ttl double precision, OUT count_ integer, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    n_ bigint;
    seqs bigint[];
BEGIN
    SELECT n INTO n_ FROM {s}.flow WHERE id = id_ AND cancelled = 0 FOR UPDATE;
    seqs := ARRAY(SELECT seq FROM {s}.flow_member WHERE flow = n_ AND phase = 4 AND lost IS DISTINCT FROM 4 LIMIT most);
    count_ := cardinality(seqs);
    woken := CASE WHEN count_ = 0 THEN '{}' ELSE {s}.retry_members(ARRAY[n_], seqs, ttl, {s}.now_()) END;
END $$;

-- Requeue dead members; return the topics of those that were, once for each.
CREATE OR REPLACE FUNCTION {s}.requeue_members(ids text[], ttl double precision) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    seqs bigint[] := ARRAY(SELECT seq FROM {s}.job WHERE id = ANY (ids) AND seq < 0);
    flows bigint[];
    topics text[];
BEGIN
    IF seqs = '{}' THEN
        RETURN '{}';
    END IF;
    flows := {s}.lock_flows(seqs);
    SELECT array_agg(seq), array_agg(topic) INTO seqs, topics FROM {s}.flow_member
     WHERE seq = ANY (seqs) AND phase = 4 AND lost IS DISTINCT FROM 4;
    IF seqs IS NOT NULL THEN
        PERFORM {s}.retry_members(flows, seqs, ttl, {s}.now_());
    END IF;
    RETURN coalesce(topics, '{}');
END $$;

-- Take members out of the queue, or let them wait no longer; return those that were queued or waiting.
CREATE OR REPLACE FUNCTION {s}.dequeue_members(seqs bigint[]) RETURNS bigint[] LANGUAGE sql AS $$
    SELECT {s}.dequeue(seqs) || ARRAY(SELECT seq FROM {s}.flow_member WHERE seq = ANY (seqs) AND phase < 2)
$$;

-- Move members to the dead letters; return how many, and the topics of jobs that are ready now.
CREATE OR REPLACE FUNCTION {s}.discard_members(
    ids text[], reason_ text, dead_max integer, ttl double precision, OUT count_ integer, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    seqs bigint[] := ARRAY(SELECT seq FROM {s}.job WHERE id = ANY (ids) AND seq < 0 ORDER BY seq);
    flows bigint[];
BEGIN
    woken := '{}';
    count_ := 0;
    IF seqs <> '{}' THEN
        flows := {s}.lock_flows(seqs);
        seqs := {s}.dequeue_members(seqs);
        count_ := cardinality(seqs);
        PERFORM {s}.make_dead(seq, reason_, NULL, 0, dead_max, now_), {s}.end_member(seq, 4, reason_, NULL, now_)
           FROM unnest(seqs) AS seq;
        woken := {s}.proceed(flows, 1000, ttl, now_);
    END IF;
END $$;

-- Delete some members of a topic that are in a state; return how many, and the topics of jobs that are ready now.
CREATE OR REPLACE FUNCTION {s}.purge_members(
    topic_ text, state text, most integer, ttl double precision, OUT count_ integer, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    seqs bigint[];
BEGIN
    seqs := CASE state
        WHEN 'ready' THEN ARRAY(
            SELECT seq FROM {s}.ready WHERE topic = topic_ AND seq < 0
             UNION ALL SELECT seq FROM {s}.scheduled WHERE topic = topic_ AND seq < 0 AND due <= {s}.now_()
             UNION ALL SELECT seq FROM {s}.entering WHERE topic = topic_ AND seq < 0
             UNION ALL SELECT seq FROM {s}.line JOIN {s}.lined ON lined.line = line.id WHERE topic = topic_ AND seq < 0
             LIMIT most)
        WHEN 'scheduled' THEN ARRAY(SELECT seq FROM {s}.scheduled WHERE topic = topic_ AND seq < 0 AND due > {s}.now_() LIMIT most)
        WHEN 'dead' THEN ARRAY(SELECT seq FROM {s}.dead WHERE topic = topic_ AND seq < 0 LIMIT most)
        WHEN 'waiting' THEN ARRAY(SELECT seq FROM {s}.flow_member WHERE topic = topic_ AND phase < 2 LIMIT most)
        ELSE '{}' END;
    SELECT d.count_, d.woken INTO count_, woken FROM {s}.delete_members(seqs, state = 'dead', ttl) AS d;
END $$;

-- Delete members for good that are dead letters, or are queued or waiting.
CREATE OR REPLACE FUNCTION {s}.delete_members(
    seqs bigint[], dead_ boolean, ttl double precision, OUT count_ integer, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    flows bigint[];
    gone bigint[];
BEGIN
    count_ := 0;
    woken := '{}';
    IF coalesce(seqs, '{}') = '{}' THEN
        RETURN;
    END IF;
    flows := {s}.lock_flows(seqs);
    IF dead_ THEN
        WITH gone AS (DELETE FROM {s}.dead WHERE seq = ANY (seqs) RETURNING seq)
        SELECT array_agg(seq) INTO gone FROM gone;
    ELSE
        gone := {s}.dequeue_members(seqs);
    END IF;
    IF cardinality(gone) > 0 THEN
        count_ := cardinality(gone);
        PERFORM {s}.end_jobs(gone, 'unknown', 0, NULL, 0);
        woken := {s}.members_left(flows, gone, ttl, now_);
    END IF;
END $$;

-- Delete dead letters that are members.
CREATE OR REPLACE FUNCTION {s}.drop_members(ids text[], ttl double precision, OUT count_ integer, OUT woken text[]) LANGUAGE sql AS $$
    SELECT d.* FROM {s}.delete_members(ARRAY(SELECT seq FROM {s}.job WHERE id = ANY (ids) AND seq < 0), true, ttl) AS d
$$;

-- -- housekeeping ---------------------------------------------------------------------------------------

-- Drop open flows whose parts come too slowly, carry on, drop dead letters, and forget old flows.
CREATE OR REPLACE FUNCTION {s}.housekeep_flows(
    most integer, ttl double precision, dead_topics text[], dead_keep double precision[],
    OUT dropped integer, OUT more boolean, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    n_ bigint;
    rows_ integer;
    left_ integer := 1000;
    seqs bigint[];
BEGIN
    dropped := 0;
    more := false;
    FOR n_ IN SELECT n FROM {s}.flow WHERE open_until <= now_ ORDER BY open_until LIMIT 100 FOR UPDATE SKIP LOCKED LOOP
        PERFORM {s}.decide_cancellation(n_, 'was dropped, because its parts came too slowly', false);
        dropped := dropped + 1;
    END LOOP;
    more := dropped = 100;
    dropped := 0;
    woken := {s}.carry_on(1000, ttl);
    more := more OR EXISTS (SELECT FROM {s}.flow_left);
    FOR k IN 1 .. cardinality(dead_topics) LOOP
        FOR n_ IN SELECT n FROM {s}.flow WHERE dead > 0 AND cancelled = 0 AND failed_at <= now_ - dead_keep[k] ORDER BY failed_at
                   LIMIT most FOR UPDATE SKIP LOCKED LOOP
            seqs := ARRAY(SELECT seq FROM {s}.flow_member WHERE flow = n_ AND phase = 4 AND topic = dead_topics[k] LIMIT most - dropped);
            IF seqs <> '{}' THEN
                DELETE FROM {s}.dead WHERE seq = ANY (seqs);
                PERFORM {s}.end_jobs(seqs, 'unknown', 0, NULL, 0);
                woken := woken || {s}.members_left(ARRAY[n_], seqs, ttl, now_);
                dropped := dropped + cardinality(seqs);
            END IF;
            EXIT WHEN dropped >= most;
        END LOOP;
    END LOOP;
    FOR n_ IN SELECT n FROM {s}.flow WHERE kept_until <= now_ ORDER BY kept_until LIMIT 1000 FOR UPDATE SKIP LOCKED LOOP
        DELETE FROM {s}.flow_member WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.flow_member WHERE flow = n_ LIMIT left_));
        GET DIAGNOSTICS rows_ = ROW_COUNT;
        left_ := left_ - rows_;
        DELETE FROM {s}.flow_result WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.flow_result WHERE flow = n_ LIMIT left_));
        GET DIAGNOSTICS rows_ = ROW_COUNT;
        left_ := left_ - rows_;
        DELETE FROM {s}.flow_group WHERE ctid = ANY (ARRAY(SELECT ctid FROM {s}.flow_group WHERE flow = n_ LIMIT left_));
        GET DIAGNOSTICS rows_ = ROW_COUNT;
        left_ := left_ - rows_ - 1;
        IF left_ <= 0 THEN
            more := true;
            EXIT;
        END IF;
        DELETE FROM {s}.flow WHERE n = n_;
    END LOOP;
END $$;
