-- The permissions of a role that only enqueues, by itself and inside transactions. It cannot read jobs: to read states and to wait
-- for results, it also needs GRANT SELECT ON ALL TABLES IN SCHEMA {s}, and GRANT INSERT, DELETE ON {s}.waiter.
GRANT USAGE ON SCHEMA {s} TO {role};
GRANT SELECT ON {s}.meta TO {role};
GRANT EXECUTE ON FUNCTION {s}.push, {s}.push_one, {s}.count_pushed, {s}.sleeps, {s}.wake_after, {s}.begin_part, {s}.end_part, {s}.place TO {role};
GRANT EXECUTE ON FUNCTION {s}.enqueue, {s}.begin_flow, {s}.end_flow TO {role};
