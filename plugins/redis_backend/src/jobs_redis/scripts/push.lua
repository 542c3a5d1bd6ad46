-- Store messages, once a request. Needs common, removal, queue.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   4 time to live of a cancelled job in microseconds
--          5 number of messages   6 inlet topic, or empty   then four values a message: see add in queue.lua; with an
--          inlet topic its messages come from the head of that topic's inlet, whose first entries must be the payloads
--          that follow the messages, and are removed
-- Result   conflicts, packed {id, holder, ...}, or empty; false if the inlet has changed meanwhile
-- Writes   begin with one that a full Redis refuses: all of it happens, or nothing
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
if inlet ~= '' then redis.call('LTRIM', INLET .. inlet, count, -1) end
if #conflicts == 0 then return '' end
answer = cmsgpack.pack(conflicts)
redis.call('SET', remembered, answer, 'PX', ARGV[3])
return answer
