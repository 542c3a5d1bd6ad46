-- Set or reset definitions of limits, and set how topics are served. Needs common, lines.
--
-- ARGV     2 1 for overrides, else 0   3 number of limits   then for each limit its name, and "concurrency interval burst"
--          (microseconds; - for none), or empty to reset   then for each topic its name, and "fair" (keys take turns), the
--          most reservations of one key at once, or empty if it is not fair
-- Cost     O(limits + topics), and for a topic that becomes fair or stops being so, O(its limits with room)

local its, rest = lines(), 4 + 2 * tonumber(ARGV[3])
local key = ARGV[2] == '1' and its.OVERRIDDEN or its.DEFINED
although_full()
for n = 4, rest - 1, 2 do
  if ARGV[n + 1] == '' then redis.call('HDEL', key, ARGV[n]) else redis.call('HSET', key, ARGV[n], ARGV[n + 1]) end
end
for n = rest, #ARGV, 2 do
  local topic, rule = ARGV[n], ARGV[n + 1]
  local before = redis.call('HGET', LINES .. topic, '=') or ''
  if before ~= rule then
    if rule == '' then redis.call('HDEL', LINES .. topic, '=') else redis.call('HSET', LINES .. topic, '=', rule) end
    if before == '' or rule == '' then
      if rule == '' and redis.call('EXISTS', its.GROUPED .. topic) == 0 then redis.call('DEL', its.TURN .. topic) end
      -- The limits with room have another order from now on, which the next reserve finds.
      for _, limit in ipairs(redis.call('ZRANGE', its.OPENING .. topic, 0, -1)) do
        redis.call('ZADD', its.OPENING .. topic, 0, limit)
      end
    end
    if redis.call('SISMEMBER', TOPICS, topic) == 1 then wake(topic) end
  end
end
