-- Renew an owner's lease. Needs common.
--
-- ARGV     2 owner   3 lease in microseconds
-- Result   0 if the owner is lost; else the ids of its jobs that are to be cancelled, and again with the suffix FORCED if
--          the job's worker may be replaced to end it
-- Cost     O(cancellations in progress)

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
