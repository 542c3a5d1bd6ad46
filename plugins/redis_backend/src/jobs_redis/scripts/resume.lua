-- Resume a paused topic, and wake a worker that waits for its jobs. Needs common.
--
-- ARGV     2 topic
-- Cost     constant

redis.call('SREM', PAUSED, ARGV[2])
redis.call('SADD', TOPICS, ARGV[2])
wake(ARGV[2])
