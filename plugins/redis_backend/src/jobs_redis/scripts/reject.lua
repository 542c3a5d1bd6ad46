-- Move the first entry of a topic's inlet to the dead letters unchanged, without sending it to a client. Needs common, removal.
--
-- ARGV     2 topic   3 its length   4 id   5 reason   6 error   7 dead letters kept at most
-- Result   1; 0 if the inlet has changed meanwhile
-- Writes   the first is one that a full Redis refuses, so that all of them happen, or none
-- Cost     O(bytes)

local topic, id = ARGV[2], ARGV[4]
local entry = redis.call('LRANGE', INLET .. topic, 0, 0)[1]
if not entry or #entry ~= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', JOBS, id, whole(now) .. ' 0 ' .. #topic .. ' 0 n|' .. topic .. entry)
redis.call('LTRIM', INLET .. topic, 1, -1)
redis.call('SADD', TOPICS, topic)
bury(id, { topic = topic, key = '', scope = 'n' }, { 0, 0, 0, 0, '' }, ARGV[5], ARGV[6], tonumber(ARGV[7]))
return 1
