-- What housekeeping does for flows. Needs common, removal, lines and flows.

local KEPT_AT_ONCE = 100 -- flows of each kind that one housekeeping looks at

-- Forget a flow that ended long ago. UNLINK frees its keys in the background, however large they are.
local function forget_flow(id)
  local its = flows()
  local keys = {}
  for _, key in ipairs({ 'PARTS', 'ORDER', 'ENDED', 'RESULTS', 'LETTERS', 'WORK', 'EARLY' }) do keys[#keys + 1] = its[key] .. id end
  redis.call('UNLINK', unpack(keys))
  redis.call('HDEL', its.STATES, id)
  for rank = 0, 2 do redis.call('ZREM', its.RANKED .. rank, id) end
  redis.call('ZREM', its.KEPT, id)
  redis.call('ZREM', its.FAILED, id)
end

-- Drop the dead members of a flow that failed too long ago, and return when to look at it again.
local function drop_letters(flow, keep, most)
  local next_look = now + 3600000000
  for _, id in ipairs(redis.call('ZRANGE', flows().LETTERS .. flow.id, 0, most - 1)) do
    local record = redis.call('HGET', JOBS, id)
    local job = record and parse(record)
    if not job then
      redis.call('ZREM', flows().LETTERS .. flow.id, id)
    elseif keep[job.topic] then
      local till = flow.s.failed + keep[job.topic]
      if till > now then
        next_look = math.min(next_look, till)
      elseif redis.call('ZREM', NEEDED .. job.topic, id) == 1 then
        uncount_letters(job.topic, { id })
        finish(id, job, 'unknown', 0)
        next_look = now
      end
    else
      next_look = now -- the next housekeeping knows how long its topic keeps dead letters
    end
  end
  return next_look
end

-- Drop open flows without new parts, go on with the work of flows, forget old flows and their dead letters. Return whether there
-- is more to do. `keep` is microseconds by topic.
local function keep_flows(keep, limit)
  local its = flows()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', its.OPEN, '-inf', now, 'LIMIT', 0, KEPT_AT_ONCE)) do
    local flow = its.flow_of(id)
    redis.call('ZREM', its.OPEN, id)
    if flow and not flow.s.closed then
      its.cancel(flow, false)
      flow.s.lost = 'was dropped, because its parts came too slowly'
    end
  end
  its.proceed()
  its.proceed_others()
  its.flush()
  local old = redis.call('ZRANGEBYSCORE', its.KEPT, '-inf', now, 'LIMIT', 0, KEPT_AT_ONCE)
  for _, id in ipairs(old) do forget_flow(id) end
  local failed = redis.call('ZRANGEBYSCORE', its.FAILED, '-inf', now, 'LIMIT', 0, KEPT_AT_ONCE)
  for _, id in ipairs(failed) do
    local flow = its.flow_of(id)
    if not flow or flow.s.cancelled or redis.call('EXISTS', its.LETTERS .. id) == 0 then
      redis.call('ZREM', its.FAILED, id)
    else
      redis.call('ZADD', its.FAILED, drop_letters(flow, keep, math.min(limit, KEPT_AT_ONCE)), id)
    end
  end
  return #old >= KEPT_AT_ONCE or #failed >= KEPT_AT_ONCE
end
