-- Limits, and the lines of the jobs that name them. Needs common.
--
-- A line holds the ready jobs of one topic with the same limits. An open line stands in OPEN, at the position of its first
-- job; a closed one in SHUT and, under the limit that has no room, in FILED. A limit with room whose lines have not been
-- looked at since is in OPENING of their topics. Whatever puts, takes or moves a job of a line calls `changed` afterwards.

local its_lines
-- Return the functions below, of which a script that meets no lines defines none: each would cost it 0.1 µs.
local function lines()
  if its_lines then return its_lines end
  local LINE, OPEN, SHUT, FILED = base .. 'line:', base .. 'open:', base .. 'shut:', base .. 'filed:'
  local OPENING, OPENS = base .. 'opening:', base .. 'opens:'
  local LINED, LIMITED, WAITING, WAITS = base .. 'lined', base .. 'limited', base .. 'limit-waiting', base .. 'limit-topics:'
  local USED, TAT, CLOSED = base .. 'limit-used', base .. 'limit-rate', base .. 'limit-closed'
  local DEFINED, OVERRIDDEN = base .. 'limit-defined', base .. 'limit-overridden'

  local function add_up(key, field, delta)
    if delta ~= 0 and redis.call('HINCRBY', key, field, delta) <= 0 then redis.call('HDEL', key, field) end
  end

  local definitions = {}
  -- The definition of a limit {concurrency, interval, burst}, or false: the override of the value, of the name, the definition.
  local function definition(limit)
    local known = definitions[limit]
    if known ~= nil then return known, known and known.overridden end
    local name = string.match(limit, '^[^:]*')
    local overrides = redis.call('HMGET', OVERRIDDEN, limit, name)
    local text = overrides[1] or overrides[2] or redis.call('HGET', DEFINED, name)
    known = false
    if text then
      local concurrency, interval, burst = string.match(text, '^(%S+) (%S+) (%S+)$')
      known = { tonumber(concurrency), tonumber(interval), tonumber(burst) } -- tonumber('-') is nil
      known.concurrency, known.interval, known.burst = known[1], known[2], known[3]
      known.text, known.overridden = text, (overrides[1] or overrides[2]) and true or false
    end
    definitions[limit] = known
    return known, known and known.overridden
  end

  -- Whether a limit has no room, and until when; without a time if it waits for a slot.
  local function blocked(limit)
    local rule = definition(limit)
    if rule and rule.concurrency and tonumber(redis.call('HGET', USED, limit) or 0) >= rule.concurrency then return true end
    local closed = tonumber(redis.call('ZSCORE', CLOSED, limit) or 0)
    if closed > now then return true, closed end
    if rule and rule.interval then
      local tat = tonumber(redis.call('ZSCORE', TAT, limit) or 0)
      local opens = math.ceil(tat - (rule.burst - 1) * rule.interval)
      if opens > now then return true, opens end
    end
    return false
  end

  -- The first limit of a line that has no room, and until when.
  local function blocker(line)
    for limit in string.gmatch(line, '[^\n]+') do
      local is, till = blocked(limit)
      if is then return limit, till end
    end
  end

  local function head_of(key)
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    return first[1], first[2] and tonumber(first[2])
  end

  local function unfile(topic, line, limit)
    local filed = FILED .. limit .. '\n' .. topic
    redis.call('ZREM', filed, line)
    redis.call('ZREM', SHUT .. topic, line)
    local best, at = head_of(filed)
    if not best then
      redis.call('SREM', WAITS .. limit, topic)
      redis.call('ZREM', OPENING .. topic, limit)
      redis.call('ZREM', OPENS .. topic, limit)
    else
      redis.call('ZADD', OPENING .. topic, 'XX', at, limit)
    end
  end

  -- Close an open or new line of `count` jobs.
  local function shut(topic, line, at, count, limit, till)
    redis.call('ZREM', OPEN .. topic, line)
    redis.call('ZADD', SHUT .. topic, at, line)
    redis.call('ZADD', FILED .. limit .. '\n' .. topic, at, line)
    redis.call('SADD', WAITS .. limit, topic)
    redis.call('HSET', LINES .. topic, line, limit)
    redis.call('ZREM', OPENING .. topic, limit)
    if till then redis.call('ZADD', OPENS .. topic, till, limit) end
    add_up(LIMITED, topic, count)
    add_up(WAITING, limit, count)
  end

  local function reopen(topic, line, limit)
    local _, at = head_of(LINE .. topic .. '\n' .. line)
    local count = redis.call('ZCARD', LINE .. topic .. '\n' .. line)
    unfile(topic, line, limit)
    redis.call('HSET', LINES .. topic, line, '')
    redis.call('ZADD', OPEN .. topic, at, line)
    add_up(LIMITED, topic, -count)
    add_up(WAITING, limit, -count)
  end

  -- Account for `delta` jobs more in a line, whose first job may be another now. A new line is closed at once if it has to be.
  local function changed(topic, line, delta)
    local key, limit = LINE .. topic .. '\n' .. line, redis.call('HGET', LINES .. topic, line)
    local first, at = head_of(key)
    add_up(LINED, topic, delta)
    if limit and limit ~= '' then
      add_up(LIMITED, topic, delta)
      add_up(WAITING, limit, delta)
      if not first then
        unfile(topic, line, limit)
      else
        local filed = FILED .. limit .. '\n' .. topic
        redis.call('ZADD', SHUT .. topic, at, line)
        redis.call('ZADD', filed, at, line)
        local _, best = head_of(filed)
        redis.call('ZADD', OPENING .. topic, 'XX', best, limit)
      end
    elseif first then
      local till
      if not limit then
        limit, till = blocker(line)
        if limit then return shut(topic, line, at, delta, limit, till) end
        redis.call('HSET', LINES .. topic, line, '')
      end
      redis.call('ZADD', OPEN .. topic, at, line)
    else
      redis.call('ZREM', OPEN .. topic, line)
    end
    if not first then redis.call('HDEL', LINES .. topic, line) end
  end

  -- Have the lines that are filed under a limit looked at, now or when its rate or closure lets the next job start.
  local function has_room(limit)
    if redis.call('EXISTS', WAITS .. limit) == 0 then return end
    local is, till = blocked(limit)
    if is and not till then return end
    for _, topic in ipairs(redis.call('SMEMBERS', WAITS .. limit)) do
      local _, best = head_of(FILED .. limit .. '\n' .. topic)
      if till then
        redis.call('ZADD', OPENS .. topic, till, limit)
      elseif best then
        redis.call('ZADD', OPENING .. topic, best, limit)
      end
      wake(topic) -- also for another time, since workers wait until the old one
    end
  end

  -- Take slots and tokens of a line's limits; return them for the token of the reservation: + is a limit of which a token of the
  -- rate was taken, - any other.
  local function take(line)
    local taken = {}
    for limit in string.gmatch(line, '[^\n]+') do
      local rule = definition(limit)
      redis.call('HINCRBY', USED, limit, 1)
      if rule and rule.interval then
        redis.call('ZADD', TAT, math.max(tonumber(redis.call('ZSCORE', TAT, limit) or 0), now) + rule.interval, limit)
      end
      taken[#taken + 1] = (rule and rule.interval) and '+' .. limit or '-' .. limit
    end
    return '\n' .. table.concat(taken, '\n')
  end

  -- Free the slots of `count` reservations, and give their tokens back if the functions were not entered. `counted` is the end of
  -- a token, from its first line break on; nothing for a plain job.
  local function free(counted, count, unstarted)
    for mark, limit in string.gmatch(counted, '\n([+-])([^\n]+)') do
      add_up(USED, limit, -count)
      local rule = unstarted and mark == '+' and definition(limit)
      if rule and rule.interval then
        local tat = tonumber(redis.call('ZSCORE', TAT, limit) or 0) - count * rule.interval
        if tat > now then redis.call('ZADD', TAT, tat, limit) else redis.call('ZREM', TAT, limit) end
      end
      has_room(limit)
    end
  end

  -- Put a job at a position of its line.
  local function stand(id, job, at)
    if redis.call('ZADD', LINE .. job.topic .. '\n' .. job.line, at, id) == 1 then changed(job.topic, job.line, 1) end
  end

  -- Remove a job from its line; return its position, or nil.
  local function leave(id, job)
    local key = LINE .. job.topic .. '\n' .. job.line
    local at = redis.call('ZSCORE', key, id)
    if not at then return nil end
    redis.call('ZREM', key, id)
    changed(job.topic, job.line, -1)
    return at
  end

  -- Releases that know no limits must not read the records of such jobs: open.lua refuses them from now on. Their workers that
  -- run already lose their registration, and what they hold is released when their lease ends, if they have not settled it.
  local function need_schema_2()
    if tonumber(redis.call('HGET', META, 'schema') or 0) >= 2 then return end
    redis.call('HSET', META, 'schema', 2)
    local owners = redis.call('ZRANGE', OWNERS, 0, -1, 'WITHSCORES')
    for n = 1, #owners, 2 do
      if not redis.call('HGET', OWNER .. owners[n], 'schema') then
        redis.call('ZREM', OWNERS, owners[n])
        redis.call('ZADD', base .. 'retired', owners[n + 1], owners[n])
      end
    end
  end

  its_lines = {
    LINE = LINE, OPEN = OPEN, SHUT = SHUT, FILED = FILED, OPENING = OPENING, OPENS = OPENS, LINED = LINED, LIMITED = LIMITED,
    WAITING = WAITING, USED = USED, TAT = TAT, CLOSED = CLOSED, DEFINED = DEFINED, OVERRIDDEN = OVERRIDDEN,
    definition = definition, blocker = blocker, head_of = head_of, shut = shut, reopen = reopen, changed = changed,
    has_room = has_room, take = take, free = free, stand = stand, leave = leave, need_schema_2 = need_schema_2,
  }
  return its_lines
end

-- Put a job at a position of its line, or of the plain one.
local function stand(id, job, at)
  if job.line then lines().stand(id, job, at) else redis.call('ZADD', READY .. job.topic, at, id) end
end
