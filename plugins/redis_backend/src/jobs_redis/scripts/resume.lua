-- Hand out jobs of a topic again, and wake who waits for them. Needs common.
--
-- ARGV     2 topic
-- Cost     constant

redis.call('SREM', PAUSED, ARGV[2])
redis.call('SADD', TOPICS, ARGV[2])
wake(ARGV[2])
