-- Settle a batch in which not all are plain acknowledgements, as one statement. settling.py makes the items: a JSON array of
-- objects, which name their bytes by their places in `blobs`.

-- Settle reservations, whose flows are locked. Returns a letter for each: d if the job is done, x if it is dead, c if it was
-- cancelled, q if it is queued again, and - if it was no reservation of this owner; and the topics of jobs that are ready now.
CREATE OR REPLACE FUNCTION {s}.settle_items(
    owner_ text, items jsonb, blobs bytea[], retention jsonb, cancelled_ttl double precision, OUT letters text, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    i jsonb;
    seq_ bigint;
    topic_ text;
    became text;
    f jsonb;
BEGIN
    letters := '';
    woken := '{}';
    FOR i IN SELECT value FROM jsonb_array_elements(items) LOOP
        seq_ := (i ->> 'seq')::bigint;
        SELECT topic INTO topic_ FROM {s}.reserved WHERE seq = seq_;
        IF i ? 'told' THEN
            PERFORM {s}.tell_end(
                owner_, seq_, i ->> 'request', blobs[(i ->> 'progress')::integer],
                CASE WHEN i ? 'lines' THEN blobs[(i -> 'lines' ->> 0)::integer : (i -> 'lines' ->> 1)::integer] END,
                coalesce((i ->> 'first')::integer, 0), blobs[(i ->> 'timeline')::integer], (i ->> 'kept')::double precision,
                coalesce((retention -> topic_ ->> 1)::integer, 2147483647));
        END IF;
        became := {s}.settle_one(
            owner_, seq_, i ->> 'request', i ->> 'outcome', coalesce((i ->> 'after')::double precision, 0), (i ? 'counted')::integer,
            i ->> 'reason', blobs[(i ->> 'error')::integer], blobs[(i ->> 'result')::integer], (i ->> 'ttl')::double precision,
            blobs[(i ->> 'cursor')::integer],
            CASE WHEN i ? 'limits' THEN ARRAY(SELECT jsonb_array_elements_text(i -> 'limits')) END, NOT i ? 'unstarted', cancelled_ttl,
            coalesce((retention -> topic_ ->> 0)::integer, 2147483647));
        letters := letters || CASE became WHEN 'done' THEN 'd' WHEN 'dead' THEN 'x' WHEN 'cancelled' THEN 'c' WHEN 'queued' THEN 'q'
                                   ELSE '-' END;
        CONTINUE WHEN became IS NULL;
        IF i ? 'cause' THEN
            PERFORM {s}.name_letters(
                ARRAY[seq_], ARRAY[i -> 'cause' ->> 0], ARRAY[i -> 'cause' ->> 1], ARRAY[i -> 'cause' ->> 2], ARRAY[i -> 'cause' ->> 3]);
        END IF;
        IF i ? 'closes' THEN
            PERFORM {s}.close_limits(array_agg(c ->> 0), array_agg((c ->> 1)::double precision)) FROM jsonb_array_elements(i -> 'closes') AS c;
        END IF;
        IF i ? 'followups' THEN
            f := i -> 'followups';
            PERFORM {s}.push(
                NULL, f -> 'messages', blobs[(f ->> 'from')::integer : (f ->> 'upto')::integer], (f ->> 'plain')::boolean,
                (f ->> 'lined')::boolean, false, cancelled_ttl);
            woken := woken || ARRAY(SELECT m ->> 't' FROM jsonb_array_elements(f -> 'messages') AS m);
        END IF;
        IF became = 'queued' THEN
            woken := woken || topic_;
        ELSIF seq_ < 0 AND NOT i ? 'open' THEN
            PERFORM {s}.end_settled(seq_, became, i ->> 'reason', blobs[(i ->> 'result')::integer]);
        END IF;
    END LOOP;
END $$;

-- Note what became of a member that was settled.
CREATE OR REPLACE FUNCTION {s}.end_settled(seq_ bigint, became text, reason text, result bytea) RETURNS void LANGUAGE sql AS $$
    SELECT {s}.end_member(
        seq_, CASE became WHEN 'done' THEN 3 WHEN 'dead' THEN 4 ELSE 5 END, CASE became WHEN 'dead' THEN reason END,
        CASE became WHEN 'done' THEN result END, {s}.now_())
$$;

-- Store the results of done jobs that are about to be deleted; one that is not reserved by this owner with its request has none.
CREATE OR REPLACE FUNCTION {s}.keep_results(owner_ text, seqs bigint[], requests text[], results bytea[], ttls double precision[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_ double precision := {s}.now_();
    ours bigint[];
BEGIN
    SELECT array_agg(seq) INTO ours FROM (
        SELECT r.seq FROM {s}.reserved AS r JOIN unnest(seqs, requests) AS t (seq, request) ON r.seq = t.seq AND r.request = t.request
         WHERE r.owner = owner_ FOR UPDATE OF r) AS held;
    INSERT INTO {s}.ended
    SELECT DISTINCT ON (j.id) j.id, j.topic, 'done', now_, now_ + t.ttl, t.result
      FROM unnest(seqs, results, ttls) AS t (seq, result, ttl) JOIN {s}.job AS j ON j.seq = t.seq
     WHERE t.seq = ANY (ours) AND t.result IS NOT NULL AND t.ttl > 0
        ON CONFLICT (id) DO UPDATE SET topic = excluded.topic, state = excluded.state, at = excluded.at, until = excluded.until,
                                       result = excluded.result;
    IF EXISTS (SELECT FROM unnest(ours) AS seq WHERE seq < 0) THEN
        UPDATE {s}.flow_result AS r SET result = t.result
          FROM unnest(seqs, results) AS t (seq, result) JOIN {s}.flow_member AS m ON m.seq = t.seq
         WHERE t.seq = ANY (ours) AND t.result IS NOT NULL AND r.flow = m.flow AND r.id = m.id;
    END IF;
END $$;

-- Settle a batch: done jobs, of which no more than a result is to be stored, in one step, and then the items, one by one. `ran` is
-- NULL if none of the done jobs has slots, `results` if none has a result. Returns the answers in this order, and the topics of jobs
-- that are ready now.
CREATE OR REPLACE FUNCTION {s}.settle_batch(
    owner_ text, request_ text, before text, again boolean, seqs bigint[], requests text[], ran boolean[], results bytea[],
    ttls double precision[], items jsonb, blobs bytea[], retention jsonb, cancelled_ttl double precision,
    OUT answers text, OUT woken text[])
LANGUAGE plpgsql AS $$
DECLARE
    flows bigint[];
    letters text;
BEGIN
    answers := {s}.settling(owner_, request_, before, again, cardinality(seqs) + jsonb_array_length(items));
    woken := '{}';
    IF answers IS NOT NULL THEN
        RETURN;
    END IF;
    flows := {s}.lock_flows_of(items, seqs);
    answers := '';
    IF seqs <> '{}' THEN
        IF ran IS NOT NULL THEN
            PERFORM {s}.free_held(owner_, seqs, requests, ran);
        END IF;
        IF results IS NOT NULL THEN
            PERFORM {s}.keep_results(owner_, seqs, requests, results, ttls);
        END IF;
        answers := {s}.delete_done(owner_, seqs, requests);
        PERFORM {s}.enter_done(seqs, answers, {s}.now_());
    END IF;
    SELECT i.letters, i.woken INTO letters, woken FROM {s}.settle_items(owner_, items, blobs, retention, cancelled_ttl) AS i;
    answers := answers || translate(letters, 'dxcq', 'ssss');
    INSERT INTO {s}.settled VALUES (owner_, request_, answers);
    IF flows IS NOT NULL THEN
        woken := woken || {s}.proceed(flows, 1000, cancelled_ttl, {s}.now_());
    END IF;
END $$;

-- Lock the flows of the members among the items and others; NULL if there are none. The transaction may be one of several statements.
CREATE OR REPLACE FUNCTION {s}.lock_flows_of(items jsonb, others bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    members bigint[] := {s}.members_of(others || ARRAY(SELECT (value ->> 'seq')::bigint FROM jsonb_array_elements(items)));
BEGIN
    PERFORM {s}.limit_idleness();
    RETURN CASE WHEN members IS NULL THEN NULL ELSE {s}.lock_flows(members) END;
END $$;
