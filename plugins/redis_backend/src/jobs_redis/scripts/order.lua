-- The clock, and the place of a job among the ready ones. Even the shortest script begins with it.
--
-- KEYS[1] is the base of all keys, "{prefix}"; every other key is made from it and lies in its slot.
-- ARGV[1] is the time in microseconds, or empty for the server's own clock.
-- Lua writes large numbers as 1e+15: numbers go to redis.call as they are, and into strings through whole().

local base = KEYS[1] .. ':'
local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
local now = clock()

local function whole(number) return string.format('%.0f', number) end

-- Where a job stands in its topic's line: by priority, then by the microsecond in which it became ready. Jobs of one
-- push follow each other by one microsecond, which is less than it takes to store one. 28 years a priority, from 2025,
-- so that no sum exceeds 2^53, up to which a double counts by ones.
local SPAN, EPOCH = 900000000000000, 1735689600000000
local function place(priority, at) return (9 - priority) * SPAN + (at - EPOCH) end

