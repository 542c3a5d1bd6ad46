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
        IF starts_with(each, 'key/') THEN -- has no rate
            INSERT INTO {s}.limit_state AS t (name, used) VALUES (each, 1) ON CONFLICT (name) DO UPDATE SET used = t.used + 1;
            taken := taken || jsonb_build_object(each, 0);
            CONTINUE;
        END IF;
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

-- Forget values without holder, line, debt and closure: of the next `most` after those of the round before, which this session
-- remembers. Returns whether it found as many.
CREATE OR REPLACE FUNCTION {s}.forget_idle(most integer, now_ double precision) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    after_ text := coalesce({s}.remembered() ->> 'swept/limit_state', '');
    names text[] := ARRAY(SELECT name FROM {s}.limit_state WHERE name > after_ ORDER BY name LIMIT most);
    n integer;
BEGIN
    DELETE FROM {s}.limit_state WHERE name = ANY (names) AND used = 0 AND waiting = 0 AND greatest(tat, closed_until) <= now_;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF cardinality(names) = most OR after_ <> '' THEN
        PERFORM {s}.remember('swept/limit_state', CASE WHEN cardinality(names) = most THEN to_jsonb(names[most]) END);
    END IF;
    RETURN n = most;
END $$;

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
        SELECT DISTINCT d.name FROM {s}.limit_definition AS d
         WHERE cardinality(names) = 0 OR split_part(d.name, ':', 1) = ANY (names))
    SELECT v.name, v.used, v.waiting,
           CASE WHEN t.topic IS NOT NULL THEN t.max_per_key WHEN o.name IS NOT NULL THEN o.concurrency
                WHEN p.name IS NOT NULL THEN p.concurrency ELSE d.concurrency END,
           CASE WHEN t.topic IS NOT NULL THEN NULL WHEN o.name IS NOT NULL THEN o.every
                WHEN p.name IS NOT NULL THEN p.every ELSE d.every END,
           CASE WHEN t.topic IS NOT NULL THEN 1 ELSE coalesce(o.burst, p.burst, d.burst) END,
           o.name IS NOT NULL OR p.name IS NOT NULL, v.defined, v.tat, v.closed_until, {s}.now_()
      FROM (SELECT coalesce(t.name, d.name) AS name, coalesce(t.used, 0) AS used, coalesce(t.waiting, 0) AS waiting,
                   d.name IS NOT NULL AS defined, coalesce(t.tat, 0) AS tat, coalesce(t.closed_until, 0) AS closed_until
              FROM states AS t FULL JOIN defined AS d ON d.name = t.name) AS v
      LEFT JOIN {s}.limit_definition AS o ON o.override AND o.name = v.name
      LEFT JOIN {s}.limit_definition AS p ON p.override AND p.name = split_part(v.name, ':', 1)
      LEFT JOIN {s}.limit_definition AS d ON NOT d.override AND d.name = split_part(v.name, ':', 1)
      LEFT JOIN {s}.topic_lines AS t ON starts_with(v.name, 'key/') AND t.topic = split_part(substr(v.name, 5), ':', 1)
            AND t.fair AND t.max_per_key IS NOT NULL
$$;
