-- Limits: the definition that applies to a value, and the slots and tokens that reservations hold. See `backends/limits.py` for
-- the rules. All functions here but those that only read need the lock of lines.

-- The definition that applies to a limit value: override of the value, of the name, definition. No `burst`: there is none.
CREATE OR REPLACE FUNCTION {s}.rules_of(
    limit_ text, OUT concurrency integer, OUT every double precision, OUT burst integer)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF starts_with(limit_, 'key/') THEN
        SELECT t.max_per_key, 1 INTO concurrency, burst FROM {s}.topic_lines AS t
         WHERE t.topic = split_part(substr(limit_, 5), ':', 1) AND t.fair AND t.max_per_key IS NOT NULL;
    ELSE
        SELECT d.concurrency, d.every, d.burst INTO concurrency, every, burst FROM {s}.limit_definition AS d
         WHERE d.name IN (limit_, split_part(limit_, ':', 1)) AND (d.override OR d.name = split_part(limit_, ':', 1))
         ORDER BY d.override DESC, length(d.name) DESC LIMIT 1;
    END IF;
END $$;

-- Whether a concurrency is defined for one of these limits.
CREATE OR REPLACE FUNCTION {s}.is_bounded(limits text[]) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    each text;
    rules record;
BEGIN
    FOREACH each IN ARRAY limits LOOP
        SELECT * INTO rules FROM {s}.rules_of(each);
        IF rules.concurrency IS NOT NULL THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;

-- When a limit has room: now, at a later time, or at infinity if a slot has to be freed first.
CREATE OR REPLACE FUNCTION {s}.room_at(limit_ text, now_ double precision) RETURNS double precision LANGUAGE plpgsql STABLE AS $$
DECLARE
    rules record;
    state record;
    tat_ double precision;
BEGIN
    SELECT * INTO rules FROM {s}.rules_of(limit_);
    IF rules.burst IS NULL AND starts_with(limit_, 'key/') THEN
        RETURN now_;
    END IF;
    SELECT used, tat, closed_until INTO state FROM {s}.limit_state WHERE name = limit_;
    IF coalesce(state.used, 0) >= rules.concurrency THEN
        RETURN 'infinity';
    END IF;
    IF rules.every IS NOT NULL THEN
        tat_ := CASE WHEN state.tat - now_ <= 2 * rules.burst * rules.every THEN state.tat ELSE now_ END;
    END IF;
    RETURN greatest(now_, tat_ - (rules.burst - 1) * rules.every, state.closed_until);
END $$;

-- The first of these limits without room, with the time from which it has some; NULL if all have room.
CREATE OR REPLACE FUNCTION {s}.first_without_room(
    limits text[], now_ double precision, OUT blocker text, OUT at double precision)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    each text;
BEGIN
    FOREACH each IN ARRAY limits LOOP
        at := {s}.room_at(each, now_);
        IF at > now_ THEN
            blocker := each;
            RETURN;
        END IF;
    END LOOP;
    at := NULL;
END $$;

-- Take a slot of each limit, and a token of each rate; return what was taken, as `reserved.slots` has it.
CREATE OR REPLACE FUNCTION {s}.take(limits text[], now_ double precision) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    each text;
    rules record;
    taken jsonb := '{}';
BEGIN
    FOREACH each IN ARRAY limits LOOP
        SELECT * INTO rules FROM {s}.rules_of(each);
        INSERT INTO {s}.limit_state AS t (name, used, tat) VALUES (each, 1, coalesce(now_ + rules.every, 0))
            ON CONFLICT (name) DO UPDATE SET used = t.used + 1, tat = CASE
                WHEN rules.every IS NULL THEN t.tat
                WHEN t.tat > now_ + 2 * rules.burst * rules.every THEN now_ + rules.every
                ELSE greatest(t.tat, now_) + rules.every END;
        taken := taken || jsonb_build_object(each, coalesce(rules.every, 0));
    END LOOP;
    RETURN taken;
END $$;

-- Forget up to `most` values without holder, line, debt and closure.
CREATE OR REPLACE FUNCTION {s}.forget_idle(most integer, now_ double precision) RETURNS void LANGUAGE sql AS $$
    DELETE FROM {s}.limit_state WHERE name = ANY (ARRAY(
        SELECT name FROM {s}.limit_state WHERE used = 0 AND waiting = 0 AND greatest(tat, closed_until) <= now_ LIMIT most))
$$;

-- The limit values of these names, or all but the limits of keys: see `Operable.limits`.
CREATE OR REPLACE FUNCTION {s}.limit_values(names text[])
RETURNS TABLE (name text, used bigint, waiting bigint, concurrency integer, every double precision, burst integer,
               overridden boolean, defined boolean, tat double precision, closed_until double precision, now_ double precision)
LANGUAGE sql STABLE AS $$
    WITH states AS (
        (SELECT t.* FROM {s}.limit_state AS t
          WHERE cardinality(names) = 0 AND NOT starts_with(t.name, 'key/') ORDER BY t.waiting DESC LIMIT 10000)
        UNION
        (SELECT t.* FROM unnest(names) AS each, LATERAL (
             SELECT s.* FROM {s}.limit_state AS s
              WHERE s.name = each OR s.name > each || ':' AND s.name < each || ';' LIMIT 10000) AS t)),
    defined AS (
        SELECT DISTINCT d.name FROM {s}.limit_definition AS d WHERE cardinality(names) = 0 OR split_part(d.name, ':', 1) = ANY (names))
    SELECT coalesce(t.name, d.name), coalesce(t.used, 0), coalesce(t.waiting, 0), r.concurrency, r.every, r.burst,
           EXISTS (SELECT FROM {s}.limit_definition AS o
                    WHERE o.override AND o.name IN (coalesce(t.name, d.name), split_part(coalesce(t.name, d.name), ':', 1))),
           d.name IS NOT NULL, coalesce(t.tat, 0), coalesce(t.closed_until, 0), {s}.now_()
      FROM states AS t FULL JOIN defined AS d ON d.name = t.name, LATERAL {s}.rules_of(coalesce(t.name, d.name)) AS r
$$;
