-- Make dead and scheduled jobs ready now; a dead member of a flow may have to wait again. Needs common, lines, letters and flows.
--
-- ARGV     2 ... ids
-- Result   how many
-- Cost     O(ids x log of the queue)

local count = 0
although_full()
for n = 2, #ARGV do
  local id = ARGV[n]
  local record = redis.call('HGET', JOBS, id)
  if record then
    local job = parse(record)
    local member = job.flow and redis.call('ZSCORE', NEEDED .. job.topic, id) and true
    local lost = job.flow and not member and redis.call('ZSCORE', DEAD .. job.topic, id) -- its flow was cancelled
    if member and flows().can_retry(id, job) then redis.call('ZREM', NEEDED .. job.topic, id) else member = false end
    local dead = member or (not lost and redis.call('ZREM', DEAD .. job.topic, id) == 1)
    if dead then
      local history = history_of(id)
      uncount_letters(job.topic, { id })
      history[1], history[2], history[3], history[4], history[5] = 0, 0, 0, 0, ''
      keep_history(id, history)
    end
    local due = not dead and redis.call('ZSCORE', LATER .. job.topic, id)
    if member then
      flows().retry(id, job)
      count = count + 1
    elseif dead or (due and tonumber(due) > now) then
      redis.call('ZREM', LATER .. job.topic, id)
      stand(id, job, place(job.priority, now + count))
      redis.call('SADD', TOPICS, job.topic)
      wake(job.topic)
      count = count + 1
    end
  end
end
carry_on()
return count
