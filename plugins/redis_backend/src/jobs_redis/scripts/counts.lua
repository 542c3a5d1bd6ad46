-- Count jobs by state. Needs common, lines and members.
--
-- ARGV     2 ... topics
-- Result   for each topic {ready, scheduled, reserved, dead, age of the oldest ready job in microseconds or -1, limited, waiting,
--          pushed and refused in all};
--          due jobs and the entries of the inlet count as ready
-- Cost     O(topics x log of the queues)

local its = lines()
local found = {}
for n = 2, #ARGV do
  local topic = ARGV[n]
  local due = redis.call('ZCOUNT', LATER .. topic, '-inf', now)
  local ready, oldest = redis.call('ZCARD', READY .. topic), nil
  local limited = tonumber(redis.call('HGET', its.LIMITED, topic) or 0)
  ready = ready + tonumber(redis.call('HGET', its.LINED, topic) or 0) - limited
  if ready > 0 then
    for priority = 0, 9 do
      local from, to = place(priority, EPOCH), '(' .. whole(place(priority, EPOCH) + SPAN)
      for _, line in ipairs({ READY .. topic, its.FILED .. topic, its.FAIR .. topic }) do
        local first = redis.call('ZRANGEBYSCORE', line, from, to, 'WITHSCORES', 'LIMIT', 0, 1)
        local at = first[2] and place_time(first[2])
        if at and (not oldest or at < oldest) then oldest = at end
      end
    end
  end
  if due > 0 then
    local at = tonumber(redis.call('ZRANGE', LATER .. topic, 0, 0, 'WITHSCORES')[2])
    if not oldest or at < oldest then oldest = at end
  end
  found[#found + 1] = {
    ready + due + redis.call('LLEN', INLET .. topic),
    redis.call('ZCARD', LATER .. topic) - due,
    tonumber(redis.call('HGET', RESERVED, topic) or 0),
    redis.call('ZCARD', DEAD .. topic) + redis.call('ZCARD', NEEDED .. topic),
    oldest and math.max(0, now - oldest) or -1,
    limited,
    redis.call('ZCARD', WAITING .. topic),
    tonumber(redis.call('HGET', PUSHED, topic) or 0),
    tonumber(redis.call('HGET', REFUSED, topic) or 0),
  }
end
return found
