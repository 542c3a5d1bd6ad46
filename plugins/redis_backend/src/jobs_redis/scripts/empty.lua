-- Delete a topic's inlet: messages of foreign producers that no worker has admitted yet. Needs common.
--
-- ARGV     2 topic
-- Result   how many entries
-- Cost     O(entries)

local count = redis.call('LLEN', INLET .. ARGV[2])
redis.call('DEL', INLET .. ARGV[2])
return count
