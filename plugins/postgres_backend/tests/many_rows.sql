-- {rows} jobs of each state, in the schema `jobs`.
INSERT INTO jobs.job (seq, id, topic, rank, since, pushed_at, key, limits, payload)
SELECT k * 10000000 + n, state || '-' || n, topic, CASE state WHEN 'ready' THEN -(n % 10) ELSE 0 END, t + n * 1e-3, t, NULL,
       CASE state WHEN 'limited' THEN ARRAY['closed:' || n / 100] END, '{}'
  FROM (VALUES (1, 'ready', 'plain', jobs.now_() - 7200), (2, 'later', 'later', jobs.now_() + 7200),
               (3, 'reserved', 'plain', jobs.now_() - 7200), (4, 'dead', 'plain', jobs.now_() - 7200),
               (5, 'limited', 'limited', jobs.now_() - 7200), (6, 'due', 'due', jobs.now_() - 7200)) AS states (k, state, topic, t),
       generate_series(1, {rows}) AS n;
SELECT setval('jobs.arrival', 100000000);
INSERT INTO jobs.ready SELECT topic, rank, since, seq FROM jobs.job WHERE id LIKE 'ready-%';
INSERT INTO jobs.scheduled SELECT topic, since, seq, rank, false FROM jobs.job WHERE id LIKE 'later-%' OR id LIKE 'due-%';
INSERT INTO jobs.owner VALUES ('others', jobs.now_() + 7200), ('w', jobs.now_() + 7200);
INSERT INTO jobs.reserved SELECT seq, since, 'others', 'request', topic FROM jobs.job WHERE id LIKE 'reserved-%';
INSERT INTO jobs.dead (topic, at, seq, reason) SELECT topic, since, seq, 'test' FROM jobs.job WHERE id LIKE 'dead-%';
INSERT INTO jobs.limit_definition VALUES ('closed', false, 0, NULL, 1);
INSERT INTO jobs.line (id, topic, fair, rank, key, limits, size, bounded, filed_under, turn, head_rank, head_since, head_seq)
SELECT min(seq), topic, false, 0, '', limits, count(*), true, limits[1], 0, 0, min(since), min(seq)
  FROM jobs.job WHERE id LIKE 'limited-%' GROUP BY topic, limits;
SELECT setval('jobs.line_id', 100000000);
INSERT INTO jobs.lined SELECT j.seq, l.id, 0, j.since FROM jobs.job AS j JOIN jobs.line AS l ON l.limits = j.limits;
INSERT INTO jobs.limit_state (name, waiting) SELECT filed_under, size FROM jobs.line;
INSERT INTO jobs.topic_lines (topic, limited) VALUES ('limited', {rows});
INSERT INTO jobs.flow (n, id, name, ttl, created_at, body, opening, total, waiting)
VALUES (1, 'flow', 'flow', 86400, jobs.now_(), 2, 3, {rows}, {rows});
INSERT INTO jobs.job (seq, id, topic, rank, since, pushed_at, payload)
SELECT -140737488355328 + n, 'waiting-' || n, 'plain', 0, jobs.now_(), jobs.now_(), '{}' FROM generate_series(1, {rows}) AS n;
SELECT setval('jobs.member_arrival', -140737488355328 + {rows});
INSERT INTO jobs.flow_member (seq, flow, id, topic, finale, awaits, stuck, failed, if_failed, delay, place)
SELECT seq, 1, id, topic, false, 1, 0, false, false, 0, '{}' FROM jobs.job WHERE seq < 0;
INSERT INTO jobs.ended SELECT 'done-' || n, 'plain', 'done', jobs.now_(), jobs.now_() + 7200, '1' FROM generate_series(1, {rows}) AS n;
INSERT INTO jobs.done_job
SELECT 'done-' || n, 'plain', n, jobs.now_(), jobs.now_() + 7200, '{}', 0, 0, 0, 0, 0, jobs.now_(), NULL, NULL, NULL, NULL, '', '{}',
       '{}' FROM generate_series(1, {rows}) AS n;
SELECT setval('jobs.ending', 100000000);
INSERT INTO jobs.unique_key SELECT 'key-' || n, 'ready-' || n, 'queued', false, NULL FROM generate_series(1, {rows}) AS n;
UPDATE jobs.job SET unique_key = 'key-' || substr(id, 7) WHERE id LIKE 'ready-%' AND seq % 10 = 0;
INSERT INTO jobs.push_request SELECT 'request-' || n, jobs.now_(), '{}' FROM generate_series(1, {rows}) AS n;
INSERT INTO jobs.document SELECT 'test', n::text, '{}', 1, jobs.now_(), jobs.now_() + 7200 FROM generate_series(1, {rows}) AS n;
INSERT INTO jobs.checkpoint SELECT seq, 'here' FROM jobs.job WHERE id LIKE 'later-%';
INSERT INTO jobs.cancel SELECT seq, id, false FROM jobs.job WHERE id LIKE 'reserved-%';
INSERT INTO jobs.limit_state (name, tat) SELECT 'rated:' || n, jobs.now_() + 7200 FROM generate_series(1, {rows}) AS n;
INSERT INTO jobs.opening SELECT 'limited', 'rated:' || n, jobs.now_() + 7200 FROM generate_series(1, {rows}) AS n;
INSERT INTO jobs.dead_group SELECT 'plain', 'group-' || n, 1 FROM generate_series(1, {rows}) AS n;
