-- How the steps that are called by themselves are planned: row by row through indexes.
--
-- Each step touches few rows of tables that may have none or millions, and the statistics of such a table are those of another
-- hour: a queue that was empty when they were made, and then got a million jobs, or the reverse. A scan of the whole table, or a
-- hash of it, may never be the right plan, and compiling it costs more than running it. So these are ruled out, and a step has the
-- same plan whatever the statistics say. What a step calls is planned in the same way.

DO $$
DECLARE
    step regprocedure;
    name text;
BEGIN
    FOR step IN SELECT oid FROM pg_proc WHERE pronamespace = '{s}'::regnamespace AND proname IN (
            'push', 'push_guarded', 'enqueue', 'bind', 'sleeps', 'wake_after', 'at_commit', 'reserve', 'take_over', 'free_queued', 'settling',
            'settle_done', 'settle_holding', 'settle_batch', 'settle_items', 'release_owner', 'cancel_job', 'requeue',
            'discard', 'purge', 'drop_dead', 'look', 'fall_asleep', 'wake_up', 'housekeep', 'topics_of', 'keep_counts', 'count_jobs',
            'keep_sizes', 'keep_dead', 'keep_letters', 'keep_statistics', 'housekeep_flows', 'carry_on', 'tell_notes', 'tidy_lines',
            'enter_pushed', 'keep_lines') LOOP
        FOREACH name IN ARRAY ARRAY['enable_seqscan', 'enable_bitmapscan', 'enable_hashjoin', 'enable_mergejoin', 'jit'] LOOP
            EXECUTE format('ALTER FUNCTION %s SET %I = off', step, name);
        END LOOP;
    END LOOP;
END $$;
