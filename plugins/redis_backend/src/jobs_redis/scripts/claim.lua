-- Reserve exactly these jobs in any state except dead and waiting, and renew the owner's lease. Needs common, unique, lines, removal and flows.
--
-- ARGV     2 owner   3 request   4 lease in microseconds   5 most bytes of results that a member of a flow takes   6 ... ids
-- Result   {} if the owner is lost; else {now, 0, id, token, record, history, id, ...} as in reserve.lua
-- Cost     O(ids x log of the queue); O(owners) for each job that another owner has reserved
--
-- For a store of records beside another queue: the owner that got the job there reserves it here. If the owner's last
-- request is sent again, it returns the jobs of that request that the owner still holds.

local owner, request = ARGV[2], ARGV[3]
if not redis.call('ZSCORE', OWNERS, owner) then return {} end
although_full()
redis.call('ZADD', OWNERS, now + ARGV[4], owner)

local found = { whole(now), {} }
local again = redis.call('HGET', OWNER .. owner, 'reserve') == request
local number = again and redis.call('HGET', OWNER .. owner, 'number') or redis.call('HINCRBY', META, 'reservations', 1)
local owners

-- Take a job from the owner that has reserved it; return its token there, or nil.
local function take_over(id)
  owners = owners or redis.call('ZRANGE', OWNERS, 0, -1)
  for _, other in ipairs(owners) do
    local token = redis.call('HGET', HELD .. other, id)
    if token then
      redis.call('HDEL', HELD .. other, id)
      if string.find(token, '\n', 1, true) then lines().free(token, 1, false) end
      return token
    end
  end
end

-- Remove a job from its place and return its position; nil if it is a dead letter.
local function taken(id, job)
  local at = job.tenant and lines().leave(id, job)
  if at then return string.format('%.0f', tonumber(at)) end
  at = redis.call('ZSCORE', READY .. job.topic, id)
  if at then
    redis.call('ZREM', READY .. job.topic, id)
  elseif redis.call('ZREM', LATER .. job.topic, id) == 1 then
    at = whole(place(job.priority, now))
  else
    local token = take_over(id)
    if not token then return nil end
    redis.call('HINCRBY', RESERVED, job.topic, -1)
    return string.match(token, ':(%d+)')
  end
  return string.format('%.0f', tonumber(at))
end

for n = 6, #ARGV do
  local id = ARGV[n]
  local record = redis.call('HGET', JOBS, id)
  if record then
    local job, token = parse(record), redis.call('HGET', HELD .. owner, id)
    if not (again and token) then
      local at = not (job.flow and flows().barred(id, job)) and taken(id, job)
      token = at and whole(number) .. ':' .. at .. ':' .. job.topic .. (job.flow and '\n>' or '')
      if token then
        redis.call('HSET', HELD .. owner, id, token)
        redis.call('HINCRBY', RESERVED, job.topic, 1)
        if job.scope == 'q' then free_key(id, job) end
      end
    end
    if token then
      local at, history = #found, history_of(id)
      found[at + 1], found[at + 2], found[at + 3] = id, token, record
      found[at + 4] = { history[1], history[2], history[3], history[4], redis.call('HGET', CURSORS, id) or '' }
      if job.flow then found[at + 4][6] = flows().inputs(job, tonumber(ARGV[5])) end
    end
  end
end
redis.call('HSET', OWNER .. owner, 'reserve', request, 'number', number)
return found
