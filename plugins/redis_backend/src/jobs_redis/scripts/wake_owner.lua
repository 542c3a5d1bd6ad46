-- End the wait of an owner: write the key for which its blocking command waits, too. Needs common.
--
-- ARGV     2 owner
-- Cost     constant

although_full()
redis.call('ZADD', base .. 'bell:' .. ARGV[2], 0, 1)
redis.call('PEXPIRE', base .. 'bell:' .. ARGV[2], 60000)
