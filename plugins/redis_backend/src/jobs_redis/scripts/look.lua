-- Check whether there are jobs to run. Needs common.
--
-- ARGV     2 ... topics
-- Result   {1 if a topic has a ready job or a flow has work left, microseconds until the next scheduled job is due or -1,
--          topics to which foreign producers have pushed ...}
-- Cost     O(topics)

local ready, due, found = 0, -1, {}
if redis.call('EXISTS', base .. 'flows-working') == 1 then ready = 1 end -- a reserve goes on with the work of flows
local paused = redis.call('EXISTS', PAUSED) == 1
for n = 2, #ARGV do
  local topic = ARGV[n]
  if not paused or redis.call('SISMEMBER', PAUSED, topic) == 0 then
    if redis.call('EXISTS', base .. 'filed:' .. topic, base .. 'fair:' .. topic, base .. 'opening:' .. topic) > 0 then
      ready = 1
    elseif redis.call('EXISTS', READY .. topic) == 1 then
      local most = tonumber(redis.call('HGET', LINES .. topic, '=') or nil) -- reservations of jobs without a key at once
      if not most or tonumber(redis.call('HGET', base .. 'limit-used', 'key/' .. topic .. ':') or 0) < most then ready = 1 end
    end
    local first = redis.call('ZRANGE', LATER .. topic, 0, 0, 'WITHSCORES')
    if first[2] then
      local left = math.max(0, tonumber(first[2]) - now)
      if due < 0 or left < due then due = left end
    end
    local opens = redis.call('ZRANGE', base .. 'opens:' .. topic, 0, 0, 'WITHSCORES')
    if opens[2] then
      local left = math.max(0, tonumber(opens[2]) - now)
      if due < 0 or left < due then due = left end
    end
    if redis.call('EXISTS', INLET .. topic) == 1 then found[#found + 1] = topic end
  end
end
return { ready, due, unpack(found) }
