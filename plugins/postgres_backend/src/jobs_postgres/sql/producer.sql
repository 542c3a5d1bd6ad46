-- What a role needs that only enqueues, by itself and within transactions; it sees no job. Asking for the state of a job takes
-- GRANT SELECT ON ALL TABLES IN SCHEMA {s} besides.
GRANT USAGE ON SCHEMA {s} TO {role};
GRANT SELECT ON {s}.meta TO {role};
GRANT EXECUTE ON FUNCTION {s}.push, {s}.wake_after, {s}.begin_part, {s}.end_part, {s}.place TO {role};
GRANT EXECUTE ON FUNCTION {s}.enqueue, {s}.begin_flow, {s}.end_flow TO {role};
