-- Reserve jobs of a topic that has lines or is fair, in the order of `backends/limits.py`; all of it under the lock of lines.

-- The best open lines of a topic, one of each kind (fair or not, with a limit on concurrency or not), best first. `place` is
-- the turn of its key, or that of the jobs without a key.
CREATE OR REPLACE FUNCTION {s}.best_lines(topic_ text, fair_ boolean, except_for bigint[])
RETURNS TABLE (id bigint, fair boolean, rank smallint, key text, limits text[], size bigint, bounded boolean, place bigint,
               head_rank smallint, head_since double precision, head_seq bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF NOT fair_ THEN
        RETURN QUERY
            SELECT l.id, l.fair, l.rank, l.key, l.limits, l.size, l.bounded, 0::bigint, l.head_rank, l.head_since, l.head_seq
              FROM (VALUES (false, false), (false, true), (true, false), (true, true)) AS kind (fair, bounded), LATERAL (
                   SELECT * FROM {s}.line AS l WHERE l.topic = topic_ AND l.fair = kind.fair AND l.bounded = kind.bounded
                      AND l.filed_under IS NULL AND NOT l.id = ANY (except_for)
                    ORDER BY l.head_rank, l.head_since, l.head_seq LIMIT 1) AS l
             ORDER BY l.head_rank, l.head_since, l.head_seq;
    ELSE
        RETURN QUERY
            SELECT l.id, l.fair, l.rank, l.key, l.limits, l.size, l.bounded,
                   CASE WHEN l.fair THEN l.turn ELSE coalesce(k.turn, 0) END AS place, l.head_rank, l.head_since, l.head_seq
              FROM (VALUES (false), (true)) AS kind (bounded), LATERAL (
                   (SELECT * FROM {s}.line AS l WHERE l.topic = topic_ AND NOT l.fair AND l.bounded = kind.bounded
                       AND l.filed_under IS NULL AND NOT l.id = ANY (except_for)
                     ORDER BY l.head_rank, l.head_since, l.head_seq LIMIT 1)
                   UNION ALL
                   (SELECT * FROM {s}.line AS l WHERE l.topic = topic_ AND l.fair AND l.bounded = kind.bounded
                       AND l.filed_under IS NULL AND NOT l.id = ANY (except_for)
                     ORDER BY l.head_rank, l.turn, l.head_since, l.head_seq LIMIT 1)) AS l
              LEFT JOIN {s}.keyless_turn AS k ON k.topic = topic_ AND k.rank = l.head_rank
             ORDER BY l.head_rank, place, l.head_since, l.head_seq;
    END IF;
END $$;

-- Reserve up to `most` jobs of a topic, of those with a limit on concurrency at most `startable`; say how many of these may
-- still be taken from other topics, and whether one that could start was left behind because of that.
CREATE OR REPLACE FUNCTION {s}.serve(
    topic_ text, most integer, startable integer, owner_ text, request_ text, now_ double precision,
    OUT taken bigint[], OUT may_take integer, OUT passed_over boolean)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    rules record;
    plain_limits text[] := '{}';
    all_bounded boolean := false;
    turn_ bigint := 0;
    turn_before bigint;
    looks integer := 100; -- LOOKED_AT
    more boolean;
    overtook boolean := false;
    skipped bigint[] := '{}'; -- lines whose jobs are being removed
    slots_ jsonb[] := '{}';
    of_lines bigint := 0;
    plain record;
    plain_there boolean := false;
    best record;
    behind record; -- the best line that `startable` forbids
    best_there boolean;
    behind_there boolean;
    c record;
    room record;
    got bigint[];
    named text[];
    head record;
BEGIN
    taken := '{}';
    may_take := startable;
    PERFORM {s}.lock_lines();
    PERFORM {s}.apply_changes(now_);
    more := {s}.enter_lines(topic_, 500, now_); -- as ENTERED_AT_ONCE
    more := {s}.look_again(topic_, 100, now_) OR more;
    SELECT fair, max_per_key, turn INTO rules FROM {s}.topic_lines WHERE topic = topic_;
    rules.fair := coalesce(rules.fair, false);
    turn_ := coalesce(rules.turn, 0);
    turn_before := turn_;
    IF rules.fair THEN
        plain_limits := ARRAY['key/' || topic_ || ':'];
        all_bounded := rules.max_per_key IS NOT NULL;
    END IF;
    SELECT 0::smallint AS head_rank, 0::bigint AS place, 0::double precision AS head_since, 0::bigint AS head_seq INTO best;
    behind := best;
    LOOP
        EXIT WHEN cardinality(taken) >= most OR looks <= 0;
        best_there := false;
        behind_there := false;
        FOR c IN SELECT * FROM {s}.best_lines(topic_, rules.fair, skipped) LOOP
            IF may_take = 0 AND (c.bounded OR all_bounded) THEN
                IF NOT behind_there THEN
                    behind := c;
                    behind_there := true;
                END IF;
            ELSE
                best := c;
                best_there := true;
                EXIT;
            END IF;
        END LOOP;
        SELECT r.rank, CASE WHEN rules.fair THEN coalesce(k.turn, 0) ELSE 0 END AS place, r.since, r.seq INTO plain
          FROM (SELECT * FROM {s}.ready WHERE topic = topic_ AND NOT seq = ANY (skipped) ORDER BY rank, since, seq LIMIT 1) AS r
          LEFT JOIN {s}.keyless_turn AS k ON rules.fair AND k.topic = topic_ AND k.rank = r.rank;
        plain_there := FOUND AND (NOT all_bounded
                                  OR may_take IS DISTINCT FROM 0 AND {s}.room_at(plain_limits[1], now_) <= now_);
        IF behind_there AND NOT overtook THEN
            overtook := NOT (plain_there AND (plain.rank, plain.place, plain.since, plain.seq)
                                           < (behind.head_rank, behind.place, behind.head_since, behind.head_seq))
                    AND NOT (best_there AND (best.head_rank, best.place, best.head_since, best.head_seq)
                                          < (behind.head_rank, behind.place, behind.head_since, behind.head_seq));
        END IF;
        IF plain_there AND NOT (best_there AND (best.head_rank, best.place, best.head_since, best.head_seq)
                                             < (plain.rank, plain.place, plain.since, plain.seq)) THEN
            got := {s}.pick_plain(
                topic_, CASE WHEN rules.fair THEN 1 ELSE most - cardinality(taken) END,
                CASE WHEN best_there AND NOT rules.fair THEN best.head_rank END, best.head_since, best.head_seq);
            IF got IS NULL THEN -- others are taking it
                skipped := skipped || plain.seq;
                looks := looks - 1;
                CONTINUE;
            END IF;
            taken := taken || got;
            IF rules.fair THEN
                slots_ := slots_ || {s}.take(plain_limits, now_);
                IF all_bounded THEN
                    may_take := may_take - 1;
                END IF;
                turn_ := turn_ + 1;
                PERFORM {s}.pass_turn(topic_, plain.rank, '', turn_, now_);
            ELSE
                slots_ := slots_ || array_fill(NULL::jsonb, ARRAY[cardinality(got)]);
            END IF;
            CONTINUE;
        END IF;
        EXIT WHEN NOT best_there;
        IF best.bounded <> {s}.is_bounded(best.limits) THEN
            UPDATE {s}.line SET bounded = NOT bounded WHERE id = best.id;
            CONTINUE;
        END IF;
        named := {s}.counted(best.limits, topic_, best.key, rules.fair);
        SELECT * INTO room FROM {s}.first_without_room(CASE WHEN rules.fair AND NOT all_bounded THEN best.limits ELSE named END, now_);
        IF room.blocker IS NOT NULL THEN
            looks := looks - 1;
            PERFORM {s}.close_line(best.id, room.blocker, room.at, now_);
            CONTINUE;
        END IF;
        DELETE FROM {s}.lined WHERE ctid = (
            SELECT ctid FROM {s}.lined WHERE line = best.id ORDER BY rank, since, seq LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING seq INTO head;
        IF NOT FOUND THEN
            skipped := skipped || best.id;
            CONTINUE;
        END IF;
        taken := taken || head.seq;
        slots_ := slots_ || {s}.take(named, now_);
        of_lines := of_lines + 1;
        IF best.bounded OR all_bounded THEN
            may_take := may_take - 1;
        END IF;
        IF best.size <= 1 THEN
            DELETE FROM {s}.line WHERE id = best.id;
        ELSE
            SELECT rank, since, seq INTO head FROM {s}.lined WHERE line = best.id ORDER BY rank, since, seq LIMIT 1;
            IF FOUND THEN
                UPDATE {s}.line SET size = size - 1, head_rank = head.rank, head_since = head.since, head_seq = head.seq
                 WHERE id = best.id;
            ELSE -- its other jobs are being removed
                UPDATE {s}.line SET size = size - 1 WHERE id = best.id;
            END IF;
        END IF;
        PERFORM {s}.advance_all(topic_, best.key, best.limits, NULL, now_);
        IF rules.fair THEN
            turn_ := turn_ + 1;
            PERFORM {s}.pass_turn(topic_, best.head_rank, best.key, turn_, now_);
        END IF;
    END LOOP;
    INSERT INTO {s}.reserved (seq, at, owner, request, topic, slots)
    SELECT t.seq, now_, owner_, request_, topic_, t.slots FROM unnest(taken, slots_) AS t (seq, slots);
    IF of_lines > 0 OR turn_ > turn_before THEN
        UPDATE {s}.topic_lines SET ready = ready - of_lines, turn = turn_ WHERE topic = topic_;
    END IF;
    passed_over := coalesce(may_take = 0 AND (overtook OR cardinality(taken) < most), false)
               AND {s}.leaves_one(topic_, rules.fair, all_bounded, plain_limits, now_);
    IF passed_over OR more OR looks <= 0 OR cardinality(taken) >= most
        AND (EXISTS (SELECT FROM {s}.ready WHERE topic = topic_)
             OR EXISTS (SELECT FROM {s}.line WHERE topic = topic_ AND filed_under IS NULL)) THEN
        PERFORM {s}.wake(ARRAY[topic_], 1); -- there may be more
    END IF;
END $$;

-- Take up to `most` of the first plain jobs of a topic, before a place if that is given; NULL if there are none.
CREATE OR REPLACE FUNCTION {s}.pick_plain(
    topic_ text, most integer, rank_ smallint, since_ double precision, seq_ bigint)
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    got bigint[];
BEGIN
    IF rank_ IS NULL THEN
        WITH picked AS (
            DELETE FROM {s}.ready WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {s}.ready WHERE topic = topic_ ORDER BY rank, since, seq LIMIT most FOR UPDATE SKIP LOCKED))
            RETURNING seq, rank, since)
        SELECT array_agg(seq ORDER BY rank, since, seq) INTO got FROM picked;
    ELSE
        WITH picked AS (
            DELETE FROM {s}.ready WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {s}.ready WHERE topic = topic_ AND (rank, since, seq) < (rank_, since_, seq_)
                 ORDER BY rank, since, seq LIMIT most FOR UPDATE SKIP LOCKED))
            RETURNING seq, rank, since)
        SELECT array_agg(seq ORDER BY rank, since, seq) INTO got FROM picked;
    END IF;
    RETURN got;
END $$;

-- Put a key that was served at the end of the turn. A step costs as much as the key has lines of this rank.
CREATE OR REPLACE FUNCTION {s}.pass_turn(topic_ text, rank_ smallint, key_ text, turn_ bigint, now_ double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    l record;
BEGIN
    IF key_ = '' THEN
        INSERT INTO {s}.keyless_turn VALUES (topic_, rank_, turn_) ON CONFLICT (topic, rank) DO UPDATE SET turn = excluded.turn;
    END IF;
    FOR l IN UPDATE {s}.line SET turn = turn_ WHERE topic = topic_ AND fair AND rank = rank_ AND key = key_
             RETURNING limits, filed_under LOOP
        IF l.filed_under IS NULL AND l.limits <> '{}' THEN
            PERFORM {s}.advance_all(topic_, key_, l.limits, NULL, now_);
        END IF;
    END LOOP;
END $$;

-- Whether a job with a limit on concurrency could start; file the open lines without room that are found on the way.
CREATE OR REPLACE FUNCTION {s}.leaves_one(
    topic_ text, fair_ boolean, all_bounded boolean, plain_limits text[], now_ double precision)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l record;
    room record;
BEGIN
    IF all_bounded AND EXISTS (SELECT FROM {s}.ready WHERE topic = topic_) AND {s}.room_at(plain_limits[1], now_) <= now_ THEN
        RETURN true;
    END IF;
    FOR looked IN 1 .. 100 LOOP
        SELECT * INTO l FROM {s}.best_lines(topic_, fair_, '{}') AS b WHERE b.bounded OR all_bounded LIMIT 1;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        SELECT * INTO room FROM {s}.first_without_room({s}.counted(l.limits, topic_, l.key, all_bounded), now_);
        IF room.blocker IS NULL THEN
            RETURN true;
        END IF;
        PERFORM {s}.close_line(l.id, room.blocker, room.at, now_);
    END LOOP;
    RETURN true;
END $$;

-- Whether a topic that may have lines has jobs that may start, and when to look at its limits again.
CREATE OR REPLACE FUNCTION {s}.look_at_lines(topic_ text, OUT ready boolean, OUT due double precision) LANGUAGE plpgsql AS $$
DECLARE
    t record;
BEGIN
    SELECT * INTO t FROM {s}.topic_lines WHERE topic = topic_;
    ready := EXISTS (SELECT FROM {s}.entering WHERE topic = topic_)
          OR EXISTS (SELECT FROM {s}.line WHERE topic = topic_ AND filed_under IS NULL)
          OR (t.limited > 0 OR t.max_per_key IS NOT NULL)
             AND (EXISTS (SELECT FROM {s}.limit_change) OR EXISTS (SELECT FROM {s}.leaving))
          OR EXISTS (SELECT FROM {s}.ready WHERE topic = topic_)
             AND NOT (coalesce(t.fair, false) AND EXISTS (
                 SELECT FROM {s}.limit_state WHERE name = 'key/' || topic_ || ':' AND used >= t.max_per_key));
    due := (SELECT min(at) FROM {s}.opening WHERE topic = topic_);
END $$;
