-- Cancel a waiting job at once; for a reserved job, leave its owner a notice. Needs common, removal and flows.
--
-- ARGV     2 id   3 time to live of a cancelled job in microseconds   4 '1' if its worker may be replaced to end it
-- Result   the job's state afterwards
-- Cost     O(log of the queue)

local id = ARGV[2]
local record = redis.call('HGET', JOBS, id)
if not record then
  local ended = redis.call('GET', base .. 'ended:' .. id)
  if not ended then return 'unknown' end
  ended = cmsgpack.unpack(ended)
  return tonumber(ended[4]) > now and ended[1] or 'unknown'
end
local job = parse(record)
although_full()
if take_out(id, job) then
  finish(id, job, 'cancelled', tonumber(ARGV[3]))
  carry_on()
  return 'cancelled'
end
if redis.call('ZSCORE', DEAD .. job.topic, id) or redis.call('ZSCORE', NEEDED .. job.topic, id) then return 'dead' end
local mark = cancel_mark(id, job)
redis.call('SADD', CANCEL, mark)
if ARGV[4] == '1' then redis.call('SADD', CANCEL, mark .. FORCED) end
return 'reserved'
