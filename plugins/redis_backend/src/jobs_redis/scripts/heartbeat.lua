-- Renew an owner's lease. Needs common, lines, removal and flows.
--
-- ARGV     2 owner   3 lease in microseconds
-- Result   0 if the owner is lost; else the ids of its jobs that are to be cancelled, and again with the suffix FORCED if
--          the job's worker may be replaced to end it
-- Cost     O(cancellations in progress), and while flows are being cancelled, O(jobs that the owner holds)

local owner = ARGV[2]
if not redis.call('ZSCORE', OWNERS, owner) then return 0 end
although_full()
redis.call('ZADD', OWNERS, now + ARGV[3], owner)
local cancelled = {}
for _, id in ipairs(redis.call('SMEMBERS', CANCEL)) do
  local job = id:sub(-#FORCED) == FORCED and id:sub(1, -#FORCED - 1) or id
  if string.sub(id, 1, 1) == '>' and redis.call('HEXISTS', HELD .. owner, job) == 0 then -- of a member of a flow
    id, job = string.sub(id, 2), string.sub(job, 2)
  end
  if redis.call('HEXISTS', HELD .. owner, job) == 1 then cancelled[#cancelled + 1] = id end
end
if redis.call('EXISTS', base .. 'flows-cancelled') == 1 then
  local held, known = redis.call('HGETALL', HELD .. owner), {}
  for _, id in ipairs(cancelled) do known[id] = true end
  for n = 1, #held, 2 do
    local record = string.sub(held[n + 1], -2) == '\n>' and not known[held[n]] and redis.call('HGET', JOBS, held[n])
    if record and flows().barred(held[n], parse(record)) then cancelled[#cancelled + 1] = held[n] end
  end
end
return cancelled
