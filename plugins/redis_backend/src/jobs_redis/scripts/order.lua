-- The clock, and the position of a ready job; the first part of every script but push_one.
--
-- KEYS[1] is the base of all keys, "{prefix}"; every other key is composed from it and is in its slot.
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

-- The position of a job in its topic: by priority, then by the microsecond in which it became ready. Jobs of one push are
-- one microsecond apart, which is less than it takes to store a job. A priority spans 28 years, counted from 2025, so that
-- no position exceeds 2^53, up to which a double represents every integer.
local SPAN, EPOCH = 900000000000000, 1735689600000000
local function place(priority, at) return (9 - priority) * SPAN + (at - EPOCH) end

