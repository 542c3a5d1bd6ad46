-- Delete a batch of a topic's jobs in one state for good. Needs common, removal.
--
-- ARGV     2 topic   3 state: ready, scheduled or dead   4 limit
-- Result   how many
-- Cost     O(limit x log of the queue)

local lines = { ready = READY, scheduled = LATER, dead = DEAD }
local line, limit = lines[ARGV[3]] .. ARGV[2], tonumber(ARGV[4])
local ids
if ARGV[3] == 'scheduled' then
  ids = redis.call('ZRANGEBYSCORE', line, '(' .. whole(now), '+inf', 'LIMIT', 0, limit)
else
  ids = redis.call('ZRANGE', line, 0, limit - 1)
  if ARGV[3] == 'ready' and #ids < limit then
    local due = redis.call('ZRANGEBYSCORE', LATER .. ARGV[2], '-inf', now, 'LIMIT', 0, limit - #ids)
    for n = 1, #due do ids[#ids + 1] = due[n] end
  end
end
for _, id in ipairs(ids) do
  redis.call('ZREM', line, id)
  redis.call('ZREM', LATER .. ARGV[2], id)
  local record = redis.call('HGET', JOBS, id)
  if record then finish(id, parse(record), 'unknown', 0) end
end
return #ids
