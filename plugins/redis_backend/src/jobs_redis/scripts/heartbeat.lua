-- Renew an owner's lease. Needs common.
--
-- ARGV     2 owner   3 lease in microseconds
-- Result   0 if the owner is lost; else the ids of its jobs that somebody wants cancelled, with FORCED behind an id once more
--          if it is to be ended by whatever means
-- Cost     O(cancels under way)

local owner = ARGV[2]
if not redis.call('ZSCORE', OWNERS, owner) then return 0 end
although_full()
redis.call('ZADD', OWNERS, now + ARGV[3], owner)
local cancelled = {}
for _, id in ipairs(redis.call('SMEMBERS', CANCEL)) do
  local job = id:sub(-#FORCED) == FORCED and id:sub(1, -#FORCED - 1) or id
  if redis.call('HEXISTS', HELD .. owner, job) == 1 then cancelled[#cancelled + 1] = id end
end
return cancelled
