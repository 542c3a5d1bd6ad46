-- What housekeeping does for the groups of dead letters: releases that do not know them bury, retry and delete letters without
-- counting. Needs common, members and letters.

local CHECKED_AT_ONCE = 100

-- Look at the next dead letters of a topic in turn, and count those that are not; forget some that are gone if there are too many.
-- Return whether there is more to do.
local function correct_groups(topic)
  local dead, needed = redis.call('ZCARD', DEAD .. topic), redis.call('ZCARD', NEEDED .. topic)
  local counted = redis.call('HLEN', LETTERS .. topic)
  if dead + needed + counted == 0 then return false end
  local field = 'letters:' .. topic
  local first = tonumber(redis.call('HGET', META, field) or 0)
  local size = counted < dead + needed and 10 * CHECKED_AT_ONCE or CHECKED_AT_ONCE
  local from, at = DEAD .. topic, first
  if first >= dead then from, at = NEEDED .. topic, first - dead end
  local found = redis.call('ZRANGE', from, at, at + size - 1, 'WITHSCORES')
  local ids, more = {}, false
  for n = 1, #found, 2 do ids[#ids + 1] = found[n] end
  local groups = #ids > 0 and redis.call('HMGET', LETTERS .. topic, unpack(ids)) or {}
  for n, group in ipairs(groups) do
    if not group then
      count_letter(topic, ids[n], tonumber(found[2 * n]))
      more = true
    end
  end
  if first + #ids >= dead + needed then
    redis.call('HDEL', META, field)
  else
    redis.call('HSET', META, field, first + #ids)
  end
  if redis.call('HLEN', LETTERS .. topic) > dead + needed then -- only then it needs the right to HSCAN
    local scanned, gone = redis.call('HSCAN', LETTERS .. topic, redis.call('HGET', META, field .. ':') or '0', 'COUNT', 100), {}
    if scanned[1] == '0' then
      redis.call('HDEL', META, field .. ':')
    else
      redis.call('HSET', META, field .. ':', scanned[1])
    end
    for n = 1, math.min(#scanned[2], 2000), 2 do
      local id = scanned[2][n]
      if not (redis.call('ZSCORE', DEAD .. topic, id) or redis.call('ZSCORE', NEEDED .. topic, id)) then gone[#gone + 1] = id end
    end
    if #gone > 0 then uncount_letters(topic, gone) end
  end
  return more
end
