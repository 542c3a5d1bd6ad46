-- Reserve ready jobs, topics in order, and renew the owner's lease. Needs common, unique.
--
-- ARGV     2 owner   3 request   4 lease in microseconds   5 limit   6 "startable bytes": startable or nothing, and most
--          bytes of the results that a member of a flow takes   7 ... topics
-- Result   {} if the owner is lost; else {now, seen, id, token, record, history, id, ...}; history is 0 or its
--          first four numbers, the cursor of a resumable job, and {id, result, ...} that a member of a flow takes; seen is {microseconds until the next scheduled job is due
--          or -1, topics to which foreign producers have pushed ...}, and after these topics -1 if a job was passed over
--          because of startable; the time is 0 if flows have work left; once the limit is reached, the other topics are not looked at
-- Cost     O(limit x log of the queue), and for at most 1000 due jobs a topic that become ready
--
-- A token is "number:position:topic": of the reservation, of the job before it, and the topic whose count includes it; and
-- for a job with limits what `take` returned. If the owner's last request is sent again, it returns the jobs of that request
-- that the owner still holds.

local owner, request = ARGV[2], ARGV[3]
although_full()
if redis.call('ZADD', OWNERS, 'XX', 'CH', now + ARGV[4], owner) == 0 and not redis.call('ZSCORE', OWNERS, owner) then
  return {}
end

local found, seen = { whole(now), 0 }, { -1 }
-- Most stores have none of these keys: check all of them with one command.
local rare = redis.call('EXISTS', HISTORY, PAUSED, UNIQUE, CURSORS, base .. 'flows-working') > 0
local histories = rare and redis.call('EXISTS', HISTORY) == 1
local paused = rare and redis.call('EXISTS', PAUSED) == 1
local resumable = rare and redis.call('EXISTS', CURSORS) == 1
local keyed = rare and redis.call('EXISTS', UNIQUE) == 1
local working = rare and redis.call('EXISTS', base .. 'flows-working') == 1

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

-- A repeated request is rare, and answered at the end.
local repeated = redis.call('HGET', OWNER .. owner, 'reserve') == request
local number = repeated and redis.call('HGET', OWNER .. owner, 'number') or redis.call('HINCRBY', META, 'reservations', 1)
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

local function finished()
  redis.call('HSET', OWNER .. owner, 'reserve', request, 'number', number)
  found[2] = seen
  return found
end

local function serve_plain(topic)
  hold(topic, redis.call('ZPOPMIN', READY .. topic, left), '')
  if left > 0 then
    redis.call('DEL', WAKE .. topic) -- nothing is left: the token would wake a worker in vain
  elseif redis.call('EXISTS', READY .. topic) == 1 then
    wake(topic) -- more jobs are ready: an idle worker should look
  end
end

local n, last = 7, #ARGV
while left > 0 and n <= last and not working and not repeated do
  local topic = ARGV[n]
  if not paused or redis.call('SISMEMBER', PAUSED, topic) == 0 then
    if redis.call('EXISTS', LATER .. topic, INLET .. topic, LINES .. topic) > 0 then break end
    serve_plain(topic)
  end
  n = n + 1
end
if (left <= 0 or n > last) and not working and not repeated then return finished() end

-- Needs lines, removal, flows, due and serve from here on, which would cost most reserves more than all of the above.

local startable, most_bytes = string.match(ARGV[6], '^(%d*) (%d+)$')

-- Add the results that members of flows take to their entries, from a place in the answer on.
local function add_inputs(from)
  for at = from, #found, 4 do
    local job = string.sub(found[at + 1], -2) == '\n>' and parse(found[at + 2])
    local inputs = job and job.flow and flows().inputs(job, tonumber(most_bytes)) or {}
    if #inputs > 0 then
      if found[at + 3] == 0 then found[at + 3] = { 0, 0, 0, 0 } end
      found[at + 3][5] = found[at + 3][5] or ''
      found[at + 3][6] = inputs
    end
  end
end

if repeated then
  local order, again = {}, {}
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
  add_inputs(3)
  found[2] = { 0 } -- a repeated request does not look: there may be more jobs
  return found
end

if working then
  flows().proceed_others()
  flows().flush()
end

-- Reserve members of flows, but end those whose flow was cancelled; return how many were reserved.
local function hold_members(topic, taken, counted)
  local kept, from, barred = {}, #found + 1, 0
  for at = 1, #taken, 2 do
    local record = redis.call('HGET', JOBS, taken[at])
    local job = record and parse(record)
    if job and job.flow and flows().barred(taken[at], job) then
      finish(taken[at], job, 'cancelled', flows().flow_of(job.flow).s.cancelled_ttl, nil, 'its flow was cancelled')
      barred = barred + 1
    else
      kept[#kept + 1], kept[#kept + 2] = taken[at], taken[at + 1]
    end
  end
  if barred > 0 then lines().free(counted, barred, true) end
  hold(topic, kept, counted)
  add_inputs(from)
  return #kept / 2
end

local bounds -- of what is taken from lines, once the reserve has met any

local function serve(topic)
  line_up_due(topic, 1000)
  local lined, exhausted, passed_over = redis.call('EXISTS', LINES .. topic) == 1, false, false
  if lined then
    bounds = bounds or bounds_of(startable)
    passed_over = serve_lines(topic, left, bounds, hold, hold_members)
    exhausted = bounds.exhausted
  else
    hold(topic, redis.call('ZPOPMIN', READY .. topic, left), '')
  end
  if left > 0 then
    for _, times in ipairs({ LATER .. topic, lined and lines().OPENS .. topic or nil }) do
      local first = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')[2]
      local due = first and math.max(0, first - now)
      if due and (seen[1] < 0 or due < seen[1]) then seen[1] = due end
    end
  end
  if left > 0 and not exhausted then
    redis.call('DEL', WAKE .. topic)
    if passed_over then wake(topic) end -- another worker can start it
  elseif redis.call('EXISTS', READY .. topic) == 1
    or (lined and redis.call('EXISTS', lines().FILED .. topic, lines().FAIR .. topic, lines().OPENING .. topic) > 0) then
    wake(topic)
  end
  if redis.call('EXISTS', INLET .. topic) == 1 then seen[#seen + 1] = topic end
end

for n = n, last do
  local topic = ARGV[n]
  if left <= 0 then break end
  if not paused or redis.call('SISMEMBER', PAUSED, topic) == 0 then
    local others = redis.call('EXISTS', LATER .. topic, INLET .. topic, LINES .. topic) > 0
    if others then serve(topic) else serve_plain(topic) end
  end
end
if bounds and bounds.passed_over then seen[#seen + 1] = -1 end
carry_on()
if (working or its_flows) and redis.call('EXISTS', base .. 'flows-working') == 1 then seen[1] = 0 end
return finished()
