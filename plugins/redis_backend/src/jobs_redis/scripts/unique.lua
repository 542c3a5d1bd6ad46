-- Free a job's unique key, if the job still holds it. Needs common.

local function free_key(id, job)
  if job.key == '' or job.scope == 't' then return end
  local holder = redis.call('HGET', UNIQUE, job.key)
  if holder and string.match(holder, '^%d+[ ?](.*)$') == id then redis.call('HDEL', UNIQUE, job.key) end
end
