-- Store messages, once per request. Needs common, removal, queue and flows.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   4 time to live of a cancelled job in microseconds
--          5 number of messages   6 inlet topic, or empty   then four values a message: see add in queue.lua; with an
--          inlet topic, the original entries follow the messages: they must be the first entries of that topic's inlet,
--          and are removed from it
-- Result   conflicts, packed {id, holder, ...}, or empty; false if the inlet has changed meanwhile
-- Writes   the first is one that a full Redis refuses, so that all of them happen, or none
-- Cost     O(messages x log of the queue)

local remembered = base .. 'request:' .. ARGV[2]
local answer = redis.call('GET', remembered)
if answer then return answer end

local count, inlet = tonumber(ARGV[5]), ARGV[6]
if inlet ~= '' then
  local head = redis.call('LRANGE', INLET .. inlet, 0, count - 1)
  for n = 1, count do
    if head[n] ~= ARGV[6 + 4 * count + n] then return false end
  end
end

redis.call('SET', remembered, '', 'PX', ARGV[3])
local conflicts = add(7, count, tonumber(ARGV[4]))
carry_on()
if inlet ~= '' then redis.call('LTRIM', INLET .. inlet, count, -1) end
if #conflicts == 0 then return '' end
answer = cmsgpack.pack(conflicts)
redis.call('SET', remembered, answer, 'PX', ARGV[3])
return answer
