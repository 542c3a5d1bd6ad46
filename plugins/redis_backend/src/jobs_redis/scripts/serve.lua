-- How reserve takes jobs from lines. Needs common, lines.

local LOOKED_AT = 100 -- most closed lines that one reserve looks at
local MOST_LINED = 300 -- most jobs of lines that one reserve takes, so that it never takes the server over 50 ms

-- What one reserve may still take from lines, of all its topics.
local function bounds_of(startable)
  return { startable = tonumber(startable) or math.huge, passed_over = false, looked = 0, lined = 0, exhausted = false }
end

-- Reserve up to `left` jobs from the lines of a topic, and from its plain line up to the position of the best one.
local function serve_lines(topic, left, bounds, hold)
  local its = lines()
  local OPEN, OPENING, OPENS, FILED = its.OPEN .. topic, its.OPENING .. topic, its.OPENS .. topic, its.FILED
  local function counts_slots(line)
    for limit in string.gmatch(line, '[^\n]+') do
      local rule = its.definition(limit)
      if rule and rule.concurrency then return true end
    end
    return false
  end

  local skipped = {}
  for _, limit in ipairs(redis.call('ZRANGEBYSCORE', OPENS, '-inf', now, 'LIMIT', 0, LOOKED_AT)) do
    local _, best = its.head_of(FILED .. limit .. '\n' .. topic)
    redis.call('ZREM', OPENS, limit)
    if best then redis.call('ZADD', OPENING, best, limit) end
  end
  while left > 0 do
    if bounds.looked >= LOOKED_AT or bounds.lined >= MOST_LINED then
      bounds.exhausted = true
      break
    end
    local line, at = its.head_of(OPEN)
    local limit, opening = its.head_of(OPENING)
    if limit and (not line or opening < at) then
      line, at = its.head_of(FILED .. limit .. '\n' .. topic)
      its.reopen(topic, line, limit)
    end
    if not line then break end
    local plain = redis.call('ZRANGEBYSCORE', READY .. topic, '-inf', '(' .. whole(at), 'WITHSCORES', 'LIMIT', 0, left)
    if #plain > 0 then
      local ids = {}
      for n = 1, #plain, 2 do ids[#ids + 1] = plain[n] end
      redis.call('ZREM', READY .. topic, unpack(ids))
      hold(topic, plain, '')
      left = left - #ids
      if left <= 0 then break end
    end
    local key = its.LINE .. topic .. '\n' .. line
    local none, till = its.blocker(line)
    local slots = not none and counts_slots(line)
    if none then
      bounds.looked = bounds.looked + 1
      its.shut(topic, line, at, redis.call('ZCARD', key), none, till)
    elseif slots and bounds.startable <= 0 then
      bounds.passed_over, bounds.looked = true, bounds.looked + 1
      redis.call('ZREM', OPEN, line)
      skipped[#skipped + 1], skipped[#skipped + 2] = at, line
    else
      local first = redis.call('ZPOPMIN', key)
      bounds.lined, left = bounds.lined + 1, left - 1
      if slots then bounds.startable = bounds.startable - 1 end
      local counted = its.take(line)
      its.changed(topic, line, -1)
      hold(topic, first, counted)
    end
  end
  if #skipped > 0 then redis.call('ZADD', OPEN, unpack(skipped)) end
end
