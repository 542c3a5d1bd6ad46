-- Whatever runs with the rights of the owner is for those alone to whom it is granted; see producer.sql.
REVOKE EXECUTE ON FUNCTION
    {s}.push, {s}.push_one, {s}.count_pushed, {s}.sleeps, {s}.wake_after, {s}.begin_part, {s}.end_part, {s}.enqueue, {s}.begin_flow, {s}.end_flow,
    {s}.at_commit FROM PUBLIC;
