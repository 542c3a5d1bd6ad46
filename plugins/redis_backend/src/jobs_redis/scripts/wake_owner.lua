-- End the wait of an owner: write its own key, on which its blocking command also waits. Needs common.
--
-- ARGV     2 owner
-- Cost     constant

although_full()
redis.call('ZADD', base .. 'bell:' .. ARGV[2], 0, 1)
redis.call('PEXPIRE', base .. 'bell:' .. ARGV[2], 60000)
