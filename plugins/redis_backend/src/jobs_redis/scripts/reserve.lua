-- Reserve ready jobs, topics in order, and renew the owner's lease. Needs common, unique, lines, due.
--
-- ARGV     2 owner   3 request   4 lease in microseconds   5 limit   6 startable, or empty   7 ... topics
-- Result   {} if the owner is lost; else {now, seen, id, token, record, history, id, ...}; history is 0 or its
--          first four numbers, and the cursor of a resumable job; seen is {microseconds until the next scheduled job is due or -1, topics to which foreign
--          producers have pushed ...}, and after these topics -1 if a job was passed over because of startable; once the limit is reached, the other topics are not looked at
-- Cost     O(limit x log of the queue), and for at most 1000 due jobs a topic that become ready
--
-- A token is "number:position:topic", and for a job with limits what `take` returned: of the reservation, of the job before it, and the topic whose count includes it. If
-- the owner's last request is sent again, it returns the jobs of that request that the owner still holds.

local owner, request = ARGV[2], ARGV[3]
although_full()
if redis.call('ZADD', OWNERS, 'XX', 'CH', now + ARGV[4], owner) == 0 and not redis.call('ZSCORE', OWNERS, owner) then
  return {}
end

local found, seen = { whole(now), 0 }, { -1 }
-- Most stores have none of these keys: check all of them with one command.
local rare = redis.call('EXISTS', HISTORY, PAUSED, UNIQUE, CURSORS) > 0
local histories = rare and redis.call('EXISTS', HISTORY) == 1
local paused = rare and redis.call('EXISTS', PAUSED) == 1
local resumable = rare and redis.call('EXISTS', CURSORS) == 1
local keyed = rare and redis.call('EXISTS', UNIQUE) == 1

-- Add jobs to the result; return their records. An id without a record (keys were deleted by hand) is left out.
local function hand_out(ids, tokens)
  local records = redis.call('HMGET', JOBS, unpack(ids))
  local packed = histories and redis.call('HMGET', HISTORY, unpack(ids))
  local cursors = resumable and redis.call('HMGET', CURSORS, unpack(ids))
  local at = #found
  for n = 1, #ids do
    if records[n] then
      found[at + 1], found[at + 2], found[at + 3], found[at + 4] = ids[n], tokens[n], records[n], 0
      if packed and packed[n] then
        local history = cmsgpack.unpack(packed[n])
        found[at + 4] = { history[1], history[2], history[3], history[4] }
      end
      if cursors and cursors[n] then
        if found[at + 4] == 0 then found[at + 4] = { 0, 0, 0, 0 } end
        found[at + 4][5] = cursors[n]
      end
      at = at + 4
    end
  end
  return records
end

if redis.call('HGET', OWNER .. owner, 'reserve') == request then
  local number, order, again = redis.call('HGET', OWNER .. owner, 'number'), {}, {}
  for n = 7, #ARGV do order[ARGV[n]] = n end
  local held = redis.call('HGETALL', HELD .. owner)
  for n = 1, #held, 2 do
    local reservation, score, topic = string.match(held[n + 1], '^(%d+):(%d+):([^\n]*)')
    if reservation == number then
      again[#again + 1] = { held[n], held[n + 1], order[topic] or 0, tonumber(score) }
    end
  end
  table.sort(again, function(a, b) return a[3] < b[3] or (a[3] == b[3] and a[4] < b[4]) end)
  for _, one in ipairs(again) do hand_out({ one[1] }, { one[2] }) end
  found[2] = { 0 } -- a repeated request does not look: there may be more jobs
  return found
end

local number = redis.call('HINCRBY', META, 'reservations', 1)
local left = tonumber(ARGV[5])

-- Reserve jobs that were taken from the topic: {id, position, id ...}; `counted` is what they took of limits, or empty.
local function hold(topic, taken, counted)
  if #taken == 0 then return end
  local ids, tokens, held = {}, {}, {}
  local head, tail = whole(number) .. ':', ':' .. topic .. counted
  for at = 1, #taken, 2 do
    local id, token = taken[at], head .. taken[at + 1] .. tail
    ids[#ids + 1], tokens[#tokens + 1] = id, token
    held[at], held[at + 1] = id, token
  end
  local records = hand_out(ids, tokens)
  redis.call('HSET', HELD .. owner, unpack(held))
  redis.call('HINCRBY', RESERVED, topic, #ids)
  left = left - #ids
  if keyed then
    for at = 1, #ids do
      local job = records[at] and parse(records[at])
      if job and job.scope == 'q' then free_key(ids[at], job) end
    end
  end
end

local LOOKED_AT = 100 -- most closed lines that one reserve looks at
local MOST_LINED = 300 -- most jobs of lines that one reserve takes, so that it never takes the server over 50 ms
local startable, passed_over, looked, lined = tonumber(ARGV[6]) or math.huge, false, 0, 0
local function exhausted() return looked >= LOOKED_AT or lined >= MOST_LINED end

local function counts_slots(line)
  for limit in string.gmatch(line, '[^\n]+') do
    local rule = definition(limit)
    if rule and rule.concurrency then return true end
  end
  return false
end

-- Reserve from the lines of a topic, and from its plain line up to the position of the best one.
local function serve_lines(topic)
  prepare()
  local skipped = {}
  for _, limit in ipairs(redis.call('ZRANGEBYSCORE', OPENS .. topic, '-inf', now, 'LIMIT', 0, LOOKED_AT)) do
    local _, best = head_of(FILED .. limit .. '\n' .. topic)
    redis.call('ZREM', OPENS .. topic, limit)
    if best then redis.call('ZADD', OPENING .. topic, best, limit) end
  end
  while left > 0 and not exhausted() do
    local line, at = head_of(OPEN .. topic)
    local limit, opening = head_of(OPENING .. topic)
    if limit and (not line or opening < at) then
      line, at = head_of(FILED .. limit .. '\n' .. topic)
      reopen(topic, line, limit)
    end
    if not line then break end
    local plain = redis.call('ZRANGEBYSCORE', READY .. topic, '-inf', '(' .. whole(at), 'WITHSCORES', 'LIMIT', 0, left)
    if #plain > 0 then
      local ids = {}
      for n = 1, #plain, 2 do ids[#ids + 1] = plain[n] end
      redis.call('ZREM', READY .. topic, unpack(ids))
      hold(topic, plain, '')
      if left <= 0 then break end
    end
    local key = LINE .. topic .. '\n' .. line
    local none, till = blocker(line)
    local slots = not none and counts_slots(line)
    if none then
      looked = looked + 1
      shut(topic, line, at, redis.call('ZCARD', key), none, till)
    elseif slots and startable <= 0 then
      passed_over, looked = true, looked + 1
      redis.call('ZREM', OPEN .. topic, line)
      skipped[#skipped + 1], skipped[#skipped + 2] = at, line
    else
      local first = redis.call('ZPOPMIN', key)
      lined = lined + 1
      if slots then startable = startable - 1 end
      local counted = take(line)
      changed(topic, line, -1)
      hold(topic, first, counted)
    end
  end
  if #skipped > 0 then redis.call('ZADD', OPEN .. topic, unpack(skipped)) end
end

for n = 7, #ARGV do
  local topic = ARGV[n]
  if left <= 0 then break end
  if not paused or redis.call('SISMEMBER', PAUSED, topic) == 0 then
    -- The topic has scheduled jobs, inlet entries or lines.
    local lines, aside = false, redis.call('EXISTS', LATER .. topic, INLET .. topic, LINES .. topic) > 0
    if aside then
      line_up_due(topic, 1000)
      lines = redis.call('EXISTS', LINES .. topic) == 1
      if lines then serve_lines(topic) end
    end
    if left > 0 and not exhausted() then hold(topic, redis.call('ZPOPMIN', READY .. topic, left), '') end
    if left > 0 and aside then
      for _, times in ipairs({ LATER .. topic, lines and OPENS .. topic or nil }) do
        local first = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')[2]
        local due = first and math.max(0, tonumber(first) - now)
        if due and (seen[1] < 0 or due < seen[1]) then seen[1] = due end
      end
    end
    if left > 0 and not exhausted() then
      redis.call('DEL', WAKE .. topic) -- nothing is left: the token would wake a worker in vain
      if lines and passed_over and redis.call('EXISTS', OPEN .. topic) == 1 then wake(topic) end -- another worker can start it
    elseif redis.call('EXISTS', READY .. topic) == 1
      or (lines and redis.call('EXISTS', OPEN .. topic, OPENING .. topic) > 0) then
      wake(topic) -- more jobs are ready: an idle worker should look
    end
    if aside and redis.call('EXISTS', INLET .. topic) == 1 then seen[#seen + 1] = topic end
  end
end
if passed_over then seen[#seen + 1] = -1 end
redis.call('HSET', OWNER .. owner, 'reserve', request, 'number', number)
found[2] = seen
return found
