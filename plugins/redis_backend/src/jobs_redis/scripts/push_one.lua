-- Store one message without unique key and delay, once per request. Most enqueues are of this kind, and their callers wait:
-- this script uses no other file, and does what order.lua and push_plain.lua do for many messages in the fewest steps.
--
-- ARGV     1 time in microseconds, or empty for the server's own clock   2 request   3 milliseconds for which it is
--          remembered   4 topic   5 priority   6 id   7 payload   8 ... topics, each with a number by which to raise the count
--          of what was pushed there; none in most calls, see backend_kit.Tally
-- Result   empty, or the answer of push.lua if this request was sent to it before
-- Writes   the first is one that a full Redis refuses, so that all of them happen, or none
-- Cost     O(log of the queue)

local base, topic, id = KEYS[1], ARGV[4], ARGV[6]
local remembered = base .. ':request:' .. ARGV[2]
if not redis.call('SET', remembered, '', 'NX', 'PX', ARGV[3]) then return redis.call('GET', remembered) end

local now = ARGV[1]
if now == '' then
  local time = redis.call('TIME')
  now = time[1] .. string.format('%06d', time[2])
end
local record = now .. ' ' .. ARGV[5] .. ' ' .. #topic .. ' 0 n|' .. topic .. ARGV[7] -- see parse in common.lua
if redis.call('HSETNX', base .. ':job', id, record) == 1 then
  local place = (9 - ARGV[5]) * 900000000000000 + (now - 1735689600000000) -- see place in order.lua
  redis.call('ZADD', base .. ':ready:' .. topic, place, id)
end
local wake = base .. ':wake:' .. topic
if redis.call('ZADD', wake, '0', '1') == 1 then -- if there was a token already, the topic is known and not paused
  redis.call('SADD', base .. ':topics', topic)
  if redis.call('SISMEMBER', base .. ':paused', topic) == 1 then redis.call('DEL', wake) end
end
for n = 8, #ARGV, 2 do redis.call('HINCRBY', base .. ':pushed', ARGV[n], ARGV[n + 1]) end
return ''
