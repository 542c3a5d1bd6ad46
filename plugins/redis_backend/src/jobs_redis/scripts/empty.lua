-- Delete what foreign producers have pushed into a topic's inlet and nobody has taken in yet. Needs common.
--
-- ARGV     2 topic
-- Result   how many entries
-- Cost     O(entries)

local count = redis.call('LLEN', INLET .. ARGV[2])
redis.call('DEL', INLET .. ARGV[2])
return count
