-- Pause a topic: no more of its jobs are reserved. Needs common.
--
-- ARGV     2 topic
-- Cost     constant

redis.call('SADD', PAUSED, ARGV[2])
redis.call('DEL', WAKE .. ARGV[2])
