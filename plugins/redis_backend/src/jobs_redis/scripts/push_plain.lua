-- Store messages without unique keys and delays, once per request. Most pushes of several are of this kind. Needs order.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   then groups, each: topic, priority, count n, and n times
--          id and payload; no id twice
-- Result   empty, or the answer of push.lua if this request was sent to it before
-- Writes   the first is one that a full Redis refuses, so that all of them happen, or none
-- Cost     O(messages x log of the queue)

local remembered = base .. 'request:' .. ARGV[2]
if not redis.call('SET', remembered, '', 'NX', 'PX', ARGV[3]) then return redis.call('GET', remembered) end

local MOST = 2000 -- messages whose values unpack() may put on Lua's stack at once
local JOBS, COUNTS = base .. 'job', base .. 'pushed'
local pushed, at = whole(now) .. ' ', now

-- Store `count` messages from ARGV[first] on, at the positions from `stands` on; skip ids that the queue has already.
local function put(ready, head, first, count, stands)
  local ids = {}
  for n = 1, count do ids[n] = ARGV[first + 2 * n - 2] end
  local known = redis.call('HMGET', JOBS, unpack(ids))
  local records, places, filled = {}, {}, 0
  for n = 1, count do
    if not known[n] then
      local id = ids[n]
      records[filled + 1], records[filled + 2] = id, head .. ARGV[first + 2 * n - 1]
      places[filled + 1], places[filled + 2] = stands + n - 1, id
      filled = filled + 2
    end
  end
  if filled == 0 then return end
  redis.call('HSET', JOBS, unpack(records))
  redis.call('ZADD', ready, unpack(places))
end

local from = 4
while ARGV[from] do
  local topic, priority, count = ARGV[from], ARGV[from + 1], tonumber(ARGV[from + 2])
  local stands, ready, wake = place(priority, at), base .. 'ready:' .. topic, base .. 'wake:' .. topic
  local head = pushed .. priority .. ' ' .. #topic .. ' 0 n|' .. topic -- the head of a record: see parse in common.lua
  from = from + 3
  for first = 0, count - 1, MOST do put(ready, head, from + 2 * first, math.min(MOST, count - first), stands + first) end
  redis.call('HINCRBY', COUNTS, topic, count)
  from, at = from + 2 * count, at + count
  if redis.call('ZADD', wake, '0', '1') == 1 then -- if there was a token already, the topic is known and not paused
    redis.call('SADD', base .. 'topics', topic)
    if redis.call('SISMEMBER', base .. 'paused', topic) == 1 then redis.call('DEL', wake) end
  end
end
return ''
