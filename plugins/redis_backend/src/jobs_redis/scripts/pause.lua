-- Have no more jobs of a topic reserved. Needs common.
--
-- ARGV     2 topic
-- Cost     constant

redis.call('SADD', PAUSED, ARGV[2])
redis.call('DEL', WAKE .. ARGV[2])
