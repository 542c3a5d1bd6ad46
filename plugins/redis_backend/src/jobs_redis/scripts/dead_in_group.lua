-- List the dead letters of a group, oldest first. Needs common, describe, letters.
--
-- ARGV     2 topic   3 id of the fingerprint   4 offset   5 limit
-- Result   {now, description of each job ...}: see describe.lua
-- Cost     O(log of the group + limit)

local found = { whole(now) }
local first, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local letters = limit > 0 and redis.call('ZRANGE', GROUPS .. ARGV[2] .. '\n' .. ARGV[3], first, first + limit - 1, 'WITHSCORES') or {}
for n = 1, #letters, 2 do
  local record = redis.call('HGET', JOBS, letters[n])
  if record then found[#found + 1] = describe(letters[n], record, 'dead', tonumber(letters[n + 1])) end
end
return found
