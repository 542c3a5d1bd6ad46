-- Make dead and scheduled jobs ready now. Needs common and lines.
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
    local dead = redis.call('ZREM', DEAD .. job.topic, id) == 1
    if dead then
      local history = history_of(id)
      history[1], history[2], history[3], history[4], history[5] = 0, 0, 0, 0, ''
      keep_history(id, history)
    end
    local due = not dead and redis.call('ZSCORE', LATER .. job.topic, id)
    if dead or (due and tonumber(due) > now) then
      redis.call('ZREM', LATER .. job.topic, id)
      stand(id, job, place(job.priority, now + count))
      redis.call('SADD', TOPICS, job.topic)
      wake(job.topic)
      count = count + 1
    end
  end
end
return count
