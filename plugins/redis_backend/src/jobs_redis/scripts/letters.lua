-- Dead letters by what went wrong. Needs common.

local LETTERS = base .. 'dead-letter:' -- TOPIC → id → id of its fingerprint, empty until it has one
local CAUSES = base .. 'dead-cause:' -- TOPIC → id of a fingerprint with letters → packed {id, kind, place, message}
local GROUPS = base .. 'dead-group:' -- TOPIC, a line break, and the id of a fingerprint → id → when it became a dead letter

-- Count a dead letter in the group of its fingerprint {id, kind, place, message}, or, without one, among those that housekeeping
-- gives one.
local function count_letter(topic, id, at, of)
  of = of or { '', '', '', '' }
  redis.call('HSET', LETTERS .. topic, id, of[1])
  redis.call('HSET', CAUSES .. topic, of[1], cmsgpack.pack(of))
  redis.call('ZADD', GROUPS .. topic .. '\n' .. of[1], at, id)
end

-- Count letters no longer: they were retried or deleted. Jobs that are not counted are passed over.
local function uncount_letters(topic, ids)
  local groups, shrunk = call_with('HMGET', LETTERS .. topic, ids), {}
  for n, group in ipairs(groups) do
    if group then
      redis.call('ZREM', GROUPS .. topic .. '\n' .. group, ids[n])
      shrunk[group] = true
    end
  end
  call_with('HDEL', LETTERS .. topic, ids)
  for group in pairs(shrunk) do
    if redis.call('EXISTS', GROUPS .. topic .. '\n' .. group) == 0 then redis.call('HDEL', CAUSES .. topic, group) end
  end
end
