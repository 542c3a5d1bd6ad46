-- Delete dead letters for good. Needs common, removal and flows.
--
-- ARGV     2 ... ids
-- Result   how many
-- Cost     O(ids x log of the dead letters)

local count = 0
for n = 2, #ARGV do
  local record = redis.call('HGET', JOBS, ARGV[n])
  local job = record and parse(record)
  if job and redis.call('ZREM', DEAD .. job.topic, ARGV[n]) + redis.call('ZREM', NEEDED .. job.topic, ARGV[n]) > 0 then
    uncount_letters(job.topic, { ARGV[n] })
    finish(ARGV[n], job, 'unknown', 0)
    count = count + 1
  end
end
carry_on()
return count
