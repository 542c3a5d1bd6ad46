-- Limits, fairness, and the lines of jobs. Needs common.
--
-- A line holds the ready jobs of one topic with the same limits; in a fair topic, also with the same priority and key. It is
-- open, or filed under a limit that has no room. The lines of a topic that are open (limit ''), and those under one limit, form
-- a shelf: FILED and FAIR order its lines by their first job, FAIR those of keys. TURNS orders the keys of a shelf, and GROUP
-- the lines of one key. On a closed shelf, a key's place in TURNS may be too early, and is corrected when it comes first.
-- A limit with room whose lines have not been looked at since is in OPENING, in the order of its best line, or too early.
-- Whatever puts, takes or moves a job of a line calls `changed` afterwards.

local its_lines
-- Return the functions below, of which a script that meets no lines defines none: each would cost it 0.1 µs.
local function lines()
  if its_lines then return its_lines end
  local LINE, SHUT, LINED, LIMITED = base .. 'line:', base .. 'shut:', base .. 'lined', base .. 'limited'
  local FILED, FAIR, TURNS, GROUP = base .. 'filed:', base .. 'fair:', base .. 'turns:', base .. 'group:'
  local TURN, GROUPED, SHELVES, DEPTH = base .. 'turn:', base .. 'grouped:', base .. 'shelves:', base .. 'depth:'
  local OPENING, OPENS, WAITING, WAITS = base .. 'opening:', base .. 'opens:', base .. 'limit-waiting', base .. 'limit-topics:'
  local USED, TAT, CLOSED = base .. 'limit-used', base .. 'limit-rate', base .. 'limit-closed'
  local DEFINED, OVERRIDDEN = base .. 'limit-defined', base .. 'limit-overridden'

  local function add_up(key, field, delta)
    if delta ~= 0 and redis.call('HINCRBY', key, field, delta) <= 0 then redis.call('HDEL', key, field) end
  end

  local function head_of(key)
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    return first[1], first[2] and tonumber(first[2])
  end

  -- == Names ==

  local rules = {}
  -- How a topic is served: false, or if it is fair, {most = reservations of one key at once, or nil}.
  local function fair(topic)
    local rule = rules[topic]
    if rule == nil then
      local text = redis.call('HGET', LINES .. topic, '=')
      rule = text and { most = tonumber(text) } or false
      rules[topic] = rule
    end
    return rule
  end

  -- The line in which a job belongs now; nil for the plain one. Its limits follow "=rank length key" if the topic is fair.
  local function line_for(job)
    local key = job.tenant or ''
    if (key ~= '' or job.line) and fair(job.topic) then
      return '=' .. 9 - job.priority .. ' ' .. #key .. ' ' .. key .. (job.line and '\n' .. job.line or '')
    end
    return job.line
  end

  local parsed = {}
  -- {limits; and of a line of a fair topic also rank, key, and both as its group}
  local function parts_of(line)
    local known = parsed[line]
    if known then return known end
    known = { limits = {} }
    local rank, length, start = string.match(line, '^=(%d) (%d+) ()')
    if rank then
      known.rank, known.key = tonumber(rank), string.sub(line, start, start + length - 1)
      known.group = rank .. ' ' .. known.key
      line = string.sub(line, start + length)
    end
    for limit in string.gmatch(line, '[^\n]+') do
      if limit == '>' then known.members = true else known.limits[#known.limits + 1] = limit end -- of members of flows
    end
    parsed[line] = known
    return known
  end

  local function key_limit(topic, key) return 'key/' .. topic .. ':' .. key end

  local function limits_of(topic, line)
    local parts = parts_of(line)
    if not fair(topic) then return parts.limits end
    local all = { unpack(parts.limits) }
    all[#all + 1] = key_limit(topic, parts.key or '')
    return all
  end

  -- == Limits ==

  local definitions = {}
  -- The definition of a limit {concurrency, interval, burst}, or false: the override of the value, of the name, the definition.
  local function definition(limit)
    local known = definitions[limit]
    if known ~= nil then return known end
    known = false
    local topic = string.match(limit, '^key/([^:]*):')
    if topic then
      local rule = fair(topic)
      if rule and rule.most then known = { concurrency = rule.most, text = whole(rule.most) .. ' - 1' } end
    else
      local name = string.match(limit, '^[^:]*')
      local overrides = redis.call('HMGET', OVERRIDDEN, limit, name)
      local override = overrides[1] or overrides[2]
      local text = override or redis.call('HGET', DEFINED, name)
      if text then
        local concurrency, interval, burst = string.match(text, '^(%S+) (%S+) (%S+)$')
        known = { concurrency = tonumber(concurrency), interval = tonumber(interval), burst = tonumber(burst) } -- '-' is nil
        known.text, known.overridden = text, override and true
      end
    end
    definitions[limit] = known
    return known
  end

  -- The theoretical time of the next reservation; one that is left from a slower rate counts as now (`limits.tat_under`).
  local function tat_under(rule, limit)
    local tat = tonumber(redis.call('ZSCORE', TAT, limit) or 0)
    return tat - now <= 2 * rule.burst * rule.interval and tat or now
  end

  -- Whether a limit has no room, and until when; without a time if it waits for a slot.
  local function blocked(limit)
    local rule = definition(limit)
    if rule and rule.concurrency and tonumber(redis.call('HGET', USED, limit) or 0) >= rule.concurrency then return true end
    local closed = tonumber(redis.call('ZSCORE', CLOSED, limit) or 0)
    if closed > now then return true, closed end
    if rule and rule.interval then
      local opens = math.ceil(tat_under(rule, limit) - (rule.burst - 1) * rule.interval)
      if opens > now then return true, opens end
    end
    return false
  end

  -- The first of these limits that has no room, and until when.
  local function blocker(limits)
    for _, limit in ipairs(limits) do
      local is, till = blocked(limit)
      if is then return limit, till end
    end
  end

  -- == Order ==

  local MOST_CORRECTED, corrected = 100, 0 -- of entries that stand too early; beyond, they count as right

  local function score_of(rank, turn) return (2 * rank + 1) * 2 ^ 48 + turn end -- positive: turns may be negative
  local function score(topic, rank, key)
    return score_of(rank, tonumber(redis.call('HGET', TURN .. topic, rank .. ' ' .. key) or 0))
  end

  local function shelf_of(limit, topic) return limit == '' and topic or limit .. '\n' .. topic end

  local function put(limit, topic, line, at)
    local shelf, parts = shelf_of(limit, topic), parts_of(line)
    local group = parts.group
    if not group then return redis.call('ZADD', FILED .. shelf, at, line) end
    redis.call('ZADD', FAIR .. shelf, at, line)
    if redis.call('ZADD', GROUP .. shelf .. '\n' .. group, at, line) == 1 then
      redis.call('ZADD', TURNS .. shelf, score(topic, parts.rank, parts.key), group)
      if limit ~= '' then redis.call('SADD', SHELVES .. topic .. '\n' .. group, limit) end
    end
  end

  local function drop(limit, topic, line)
    local shelf, group = shelf_of(limit, topic), parts_of(line).group
    if not group then return redis.call('ZREM', FILED .. shelf, line) end
    redis.call('ZREM', FAIR .. shelf, line)
    redis.call('ZREM', GROUP .. shelf .. '\n' .. group, line)
    if redis.call('EXISTS', GROUP .. shelf .. '\n' .. group) == 0 then
      redis.call('ZREM', TURNS .. shelf, group)
      if limit ~= '' then redis.call('SREM', SHELVES .. topic .. '\n' .. group, limit) end
    end
  end

  -- The first line of a shelf, the order of its key, and the position of its first job, which is the order without turns.
  local function best(limit, topic)
    local shelf = shelf_of(limit, topic)
    local line, at = head_of(FILED .. shelf)
    if not fair(topic) then
      local other, its_at = head_of(FAIR .. shelf)
      if other and (not line or its_at < at) then line, at = other, its_at end
      return line, at, at
    end
    local order = line and score(topic, math.floor(at / SPAN), '')
    while true do
      local group, its_order = head_of(TURNS .. shelf)
      if not group or (line and order < its_order) then return line, order, at end
      local actual = its_order
      if limit ~= '' and corrected < MOST_CORRECTED then
        local rank, key = string.match(group, '^(%d) (.*)$')
        actual = score(topic, rank, key)
      end
      if actual == its_order then
        local other, its_at = head_of(GROUP .. shelf .. '\n' .. group)
        if line and its_order == order and at < its_at then return line, order, at end
        return other, its_order, its_at
      end
      corrected = corrected + 1
      redis.call('ZADD', TURNS .. shelf, actual, group)
    end
  end

  -- The best line of all limits that may have room, its limit, order and position, if it comes before the given ones.
  local function best_opening(topic, order, at)
    local first, its_order
    while true do
      first, its_order = head_of(OPENING .. topic)
      if not first or (order and its_order > order) then return nil end
      local line, actual = best(first, topic)
      if not line then
        redis.call('ZREM', OPENING .. topic, first)
      elseif actual > its_order and corrected < MOST_CORRECTED then
        corrected = corrected + 1
        redis.call('ZADD', OPENING .. topic, actual, first)
      else
        break
      end
    end
    local found
    for _, limit in ipairs(redis.call('ZRANGEBYSCORE', OPENING .. topic, its_order, its_order, 'LIMIT', 0, MOST_CORRECTED)) do
      local line, actual, its_at = best(limit, topic)
      local before = not order or actual < order or (actual == order and its_at < at)
      if line and before then found, order, at = { line, limit, actual, its_at }, actual, its_at end
    end
    if found then return unpack(found) end
  end

  -- A key has got a reservation: it goes to the end of the turn.
  local function served(topic, rank, key)
    local group = rank .. ' ' .. key
    if key ~= '' and redis.call('HEXISTS', TURN .. topic, group) == 0 then return end
    local turn = redis.call('HINCRBY', TURN .. topic, 'last', 1)
    redis.call('HSET', TURN .. topic, group, turn)
    redis.call('ZADD', TURNS .. topic, 'XX', score_of(rank, turn), group)
  end

  local function to_front(topic, rank, key)
    local group, turn = rank .. ' ' .. key, redis.call('HINCRBY', TURN .. topic, 'front', -1)
    local order = score_of(rank, turn)
    redis.call('HSET', TURN .. topic, group, turn)
    redis.call('ZADD', TURNS .. topic, 'XX', order, group)
    for _, limit in ipairs(redis.call('SMEMBERS', SHELVES .. topic .. '\n' .. group)) do
      redis.call('ZADD', TURNS .. shelf_of(limit, topic), 'XX', order, group)
      redis.call('ZADD', OPENING .. topic, 'XX', 'LT', order, limit)
    end
    if key == '' then -- perhaps also of lines from before the topic was fair
      for _, limit in ipairs(redis.call('ZRANGE', OPENING .. topic, 0, MOST_CORRECTED - 1)) do
        redis.call('ZADD', OPENING .. topic, 'XX', 'LT', order, limit)
      end
    end
  end

  -- Count the lines of each key: a new key joins at the end of the turn, and one without lines is forgotten.
  local function join(topic, parts)
    if redis.call('HINCRBY', GROUPED .. topic, parts.group, 1) == 1 and parts.key ~= '' then
      redis.call('HSET', TURN .. topic, parts.group, redis.call('HINCRBY', TURN .. topic, 'last', 1))
    end
  end
  local function part(topic, parts)
    if redis.call('HINCRBY', GROUPED .. topic, parts.group, -1) > 0 then return end
    redis.call('HDEL', GROUPED .. topic, parts.group)
    if parts.key ~= '' then redis.call('HDEL', TURN .. topic, parts.group) end
    if not fair(topic) and redis.call('EXISTS', GROUPED .. topic) == 0 then redis.call('DEL', TURN .. topic) end
  end

  -- == Lines ==

  local function unfile(topic, line, limit)
    local shelf = shelf_of(limit, topic)
    drop(limit, topic, line)
    redis.call('ZREM', SHUT .. topic, line)
    if redis.call('EXISTS', FILED .. shelf, FAIR .. shelf) == 0 then
      redis.call('SREM', WAITS .. limit, topic)
      redis.call('ZREM', OPENING .. topic, limit)
      redis.call('ZREM', OPENS .. topic, limit)
    end
  end

  -- Close a line of `count` jobs that is on no shelf.
  local function shut(topic, line, at, count, limit, till)
    redis.call('ZADD', SHUT .. topic, at, line)
    put(limit, topic, line, at)
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
    put('', topic, line, at)
    add_up(LIMITED, topic, -count)
    add_up(WAITING, limit, -count)
  end

  -- Account for `delta` jobs more in a line, whose first job may be another now. A new line is closed at once if it has to be.
  local function changed(topic, line, delta)
    local limit, parts = redis.call('HGET', LINES .. topic, line), parts_of(line)
    local first, at = head_of(LINE .. topic .. '\n' .. line)
    add_up(LINED, topic, delta)
    if parts.group then
      if tonumber(redis.call('ZINCRBY', DEPTH .. topic, delta, parts.key)) <= 0 then
        redis.call('ZREM', DEPTH .. topic, parts.key)
      end
      if not limit then join(topic, parts) end
    end
    if limit and limit ~= '' then
      add_up(LIMITED, topic, delta)
      add_up(WAITING, limit, delta)
      if not first then
        unfile(topic, line, limit)
      else
        redis.call('ZADD', SHUT .. topic, at, line)
        put(limit, topic, line, at)
        if redis.call('ZSCORE', OPENING .. topic, limit) then
          local _, order = best(limit, topic)
          redis.call('ZADD', OPENING .. topic, order, limit)
        end
      end
    elseif first then
      if not limit then
        local till
        limit, till = blocker(limits_of(topic, line))
        if limit then return shut(topic, line, at, delta, limit, till) end
        redis.call('HSET', LINES .. topic, line, '')
      end
      put('', topic, line, at)
    else
      drop('', topic, line)
    end
    if not first then
      redis.call('HDEL', LINES .. topic, line)
      if parts.group then part(topic, parts) end
    end
  end

  -- Put a job at a position of the line in which it belongs; an unstarted one puts its key at the front of the turn.
  local function stand(id, job, at, unstarted)
    local line = line_for(job)
    if not line then
      redis.call('ZADD', READY .. job.topic, at, id)
    elseif redis.call('ZADD', LINE .. job.topic .. '\n' .. line, at, id) == 1 then
      changed(job.topic, line, 1)
    end
    if unstarted and fair(job.topic) then to_front(job.topic, 9 - job.priority, job.tenant or '') end
  end

  -- The line in which a job stands, and its position; nil if it is in none. It may have entered before its topic became fair.
  local function where(id, job)
    local key = job.tenant or ''
    local fairly = '=' .. 9 - job.priority .. ' ' .. #key .. ' ' .. key .. (job.line and '\n' .. job.line or '')
    for _, line in ipairs({ fairly, job.line }) do
      local at = redis.call('ZSCORE', LINE .. job.topic .. '\n' .. line, id)
      if at then return line, at end
    end
  end

  -- Remove a job from its line; return its position, or nil.
  local function leave(id, job)
    local line, at = where(id, job)
    if not line then return nil end
    redis.call('ZREM', LINE .. job.topic .. '\n' .. line, id)
    changed(job.topic, line, -1)
    return at
  end

  -- == Slots and tokens ==

  -- Have the lines that are filed under a limit looked at, now or when its rate or closure lets the next job start.
  local function has_room(limit)
    local topic = string.match(limit, '^key/([^:]*):$') -- of jobs without a key, most of which stand in the plain line
    if topic and redis.call('EXISTS', READY .. topic) == 1 and not blocked(limit) then wake(topic) end
    if redis.call('EXISTS', WAITS .. limit) == 0 then return end
    local is, till = blocked(limit)
    if is and not till then return end
    for _, topic in ipairs(redis.call('SMEMBERS', WAITS .. limit)) do
      local _, order = best(limit, topic)
      if till then
        redis.call('ZADD', OPENS .. topic, till, limit)
      elseif order then
        redis.call('ZADD', OPENING .. topic, order, limit)
      end
      wake(topic) -- also for another time, since workers wait until the old one
    end
  end

  -- Take slots and tokens of limits for `count` jobs; return them for the token of the reservation: "+interval limit" if a
  -- token of its rate was taken, "-limit" for any other. The last entry of the token of `members` of flows is ">".
  local function take(limits, count, members)
    local taken = {}
    for n, limit in ipairs(limits) do
      local rule = definition(limit)
      redis.call('HINCRBY', USED, limit, count)
      local rated = rule and rule.interval
      if rated then
        redis.call('ZADD', TAT, math.max(tat_under(rule, limit), now) + count * rated, limit)
      end
      -- A key may contain line breaks; a limit of another kind does not.
      if string.sub(limit, 1, 4) == 'key/' then limit = string.gsub(limit, '[%%\n]', { ['%'] = '%25', ['\n'] = '%0A' }) end
      taken[n] = rated and string.format('+%.17g ', rated) .. limit or '-' .. limit
    end
    if members then taken[#taken + 1] = '>' end
    return '\n' .. table.concat(taken, '\n')
  end

  -- How many of the first jobs of an unlimited line can be taken at once: if it is the only open line, those before a position.
  local function together(topic, key, before, most)
    if redis.call('ZCARD', FILED .. topic) > 1 or redis.call('EXISTS', FAIR .. topic, OPENING .. topic) > 0 then return 1 end
    if not before then return most end
    return math.max(1, math.min(most, redis.call('ZCOUNT', key, '-inf', '(' .. whole(before))))
  end

  -- Free the slots of `count` reservations, and give their tokens back if the functions were not entered. `counted` is a token
  -- of the reservation, or its end from the first line break on.
  local function free(counted, count, unstarted)
    for entry in string.gmatch(counted, '\n([^\n>][^\n]*)') do
      local interval, limit = string.match(entry, '^%+(%S+) (.*)$')
      limit = limit or string.sub(entry, 2)
      if string.sub(limit, 1, 4) == 'key/' then limit = string.gsub(limit, '%%(%x%x)', { ['25'] = '%', ['0A'] = '\n' }) end
      add_up(USED, limit, -count)
      if unstarted and interval then
        local tat = tonumber(redis.call('ZSCORE', TAT, limit) or 0) - count * interval
        if tat > now then redis.call('ZADD', TAT, tat, limit) else redis.call('ZREM', TAT, limit) end
      end
      has_room(limit)
    end
  end

  -- Releases that know no limits (schema 1) or no flows (2) must not read the records of such jobs: open.lua refuses them from
  -- now on. Their workers that run already lose their registration, and what they hold is released when their lease ends, if
  -- they have not settled it.
  local function need_schema(least)
    if tonumber(redis.call('HGET', META, 'schema') or 0) >= least then return end
    redis.call('HSET', META, 'schema', least)
    local owners = redis.call('ZRANGE', OWNERS, 0, -1, 'WITHSCORES')
    for n = 1, #owners, 2 do
      if tonumber(redis.call('HGET', OWNER .. owners[n], 'schema') or 1) < least then
        redis.call('ZREM', OWNERS, owners[n])
        redis.call('ZADD', base .. 'retired', owners[n + 1], owners[n])
      end
    end
  end

  its_lines = {
    LINE = LINE, SHUT = SHUT, LINED = LINED, LIMITED = LIMITED, FILED = FILED, FAIR = FAIR, TURN = TURN, GROUPED = GROUPED,
    DEPTH = DEPTH, OPENING = OPENING, OPENS = OPENS, WAITING = WAITING, USED = USED, TAT = TAT, tat_under = tat_under, CLOSED = CLOSED,
    DEFINED = DEFINED, OVERRIDDEN = OVERRIDDEN,
    head_of = head_of, fair = fair, line_for = line_for, parts_of = parts_of, key_limit = key_limit, limits_of = limits_of,
    definition = definition, blocker = blocker, score = score, put = put, drop = drop, best = best,
    best_opening = best_opening, served = served, shut = shut, reopen = reopen, changed = changed, stand = stand,
    where = where, leave = leave, has_room = has_room, take = take, together = together, free = free, need_schema = need_schema,
  }
  return its_lines
end

-- Put a job at a position of the line in which it belongs; `unstarted` if it returns from a reservation without having run.
local function stand(id, job, at, unstarted)
  if job.tenant or unstarted then
    lines().stand(id, job, at, unstarted)
  else
    redis.call('ZADD', READY .. job.topic, at, id)
  end
end
