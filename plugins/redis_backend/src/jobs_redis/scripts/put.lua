-- Store messages without unique keys and delays, once a request: what nearly every push is, in the fewest steps. Needs order.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   then groups, each: topic, priority, count n, and n times
--          id and record without its time; no id twice
-- Result   empty, or what push.lua has answered this request
-- Writes   begin with one that a full Redis refuses: all of it happens, or nothing
-- Cost     O(messages x log of the line)

local remembered = base .. 'request:' .. ARGV[2]
if not redis.call('SET', remembered, '', 'NX', 'PX', ARGV[3]) then return redis.call('GET', remembered) end

local MOST = 2000 -- messages whose values unpack() may put on Lua's stack at once
local JOBS, pushed, at = base .. 'job', whole(now) .. ' ', now

-- Store messages whose first is ARGV[first] and stands in line at `stands`; those whose id is known are left out.
local function put(topic, first, count, stands)
  local ids = {}
  for n = 1, count do ids[n] = ARGV[first + 2 * n - 2] end
  local known = redis.call('HMGET', JOBS, unpack(ids))
  local records, places, filled = {}, {}, 0
  for n = 1, count do
    if not known[n] then
      local id = ids[n]
      records[filled + 1], records[filled + 2] = id, pushed .. ARGV[first + 2 * n - 1]
      places[filled + 1], places[filled + 2] = stands + n - 1, id
      filled = filled + 2
    end
  end
  if filled == 0 then return end
  redis.call('HSET', JOBS, unpack(records))
  redis.call('ZADD', base .. 'ready:' .. topic, unpack(places))
end

local from = 4
while ARGV[from] do
  local topic, stands, count = ARGV[from], place(ARGV[from + 1], at), tonumber(ARGV[from + 2])
  from = from + 3
  if count > 1 then
    for first = 0, count - 1, MOST do put(topic, from + 2 * first, math.min(MOST, count - first), stands + first) end
  elseif redis.call('HSETNX', JOBS, ARGV[from], pushed .. ARGV[from + 1]) == 1 then
    redis.call('ZADD', base .. 'ready:' .. topic, stands, ARGV[from])
  end
  from, at = from + 2 * count, at + count
  redis.call('SADD', base .. 'topics', topic)
  if redis.call('SISMEMBER', base .. 'paused', topic) == 0 then redis.call('ZADD', base .. 'wake:' .. topic, 0, 1) end
end
return ''
