-- Settle reservations. Needs common.
--
-- ARGV     2 owner   3 request   4 time to live of a cancelled job in microseconds
--          5 number of groups of acknowledged jobs, each: end of the token from the topic on, count n, n ids, n tokens
--          then the number of other settlements, each: id, token, topic, outcome, after (microseconds), counts (0 or 1),
--          reason, error, has a result (0 or 1), result, its time to live (microseconds), most dead letters of the topic,
--          has a cursor (0 or 1), cursor, what concerns limits (see below), most done jobs of the topic (empty: the job is
--          not kept), number of values that it tells, these: the entry of its timeline, and the values of told_by in
--          telling.lua; number of follow-ups, and four values a follow-up: see add in queue.lua
--          What concerns limits is empty, or packed {whether the function ran, the job's limits from now on or false,
--          {limit to close, microseconds, limit ...}, and perhaps the fingerprint of a dead letter {id, kind, place, message}}
-- Result   one letter per settlement, groups first: s(ettled), a(lready settled by the same request), - (stale)
-- Cost     O(settlements), and what follows in flows, at most as much as flows.lua decides in one script

local owner, request, cancelled_ttl = ARGV[2], ARGV[3], tonumber(ARGV[4])
local held = HELD .. owner
local alive = redis.call('ZSCORE', OWNERS, owner)
if alive then
  local last = redis.call('HMGET', OWNER .. owner, 'settle', 'answers')
  if last[1] == request then return (string.gsub(last[2], 's', 'a')) end
end
although_full()
local answers = {}
local function answer(letter) answers[#answers + 1] = letter end

local rare = redis.call('EXISTS', HISTORY, UNIQUE, CANCEL, FOLLOWERS, CURSORS, NOTES) > 0
local rest = {} -- {ids, end of their tokens, whether to read their records} of acknowledged jobs that have more than a record

-- Acknowledge: compare tokens, delete. History, keys, cancellations and followers are looked up only if there are any.
local function done(topic, ids, tokens)
  local current, gone, read = redis.call('HMGET', held, unpack(ids)), {}, rare
  for n = 1, #ids do
    if current[n] and current[n] == tokens[n] then
      gone[#gone + 1] = ids[n]
      answer('s')
    else
      answer('-')
    end
  end
  if #gone == 0 then return end
  redis.call('HDEL', held, unpack(gone))
  local line_break = string.find(topic, '\n', 1, true)
  if line_break then
    read = rare or string.sub(topic, -2) == '\n>' -- members of flows
    rest[#rest + 1] = { gone, string.sub(topic, line_break), read }
    topic = string.sub(topic, 1, line_break - 1)
  elseif rare then
    rest[#rest + 1] = { gone, '', true }
  end
  redis.call('HINCRBY', RESERVED, topic, -#gone)
  if not read then redis.call('HDEL', JOBS, unpack(gone)) end
end

local at = 6
for _ = 1, tonumber(ARGV[5]) do
  local topic, count = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  for first = 0, count - 1, CHUNK do
    local ids, tokens = {}, {}
    for n = first, math.min(first + CHUNK, count) - 1 do
      ids[#ids + 1], tokens[#tokens + 1] = ARGV[at + n], ARGV[at + count + n]
    end
    done(topic, ids, tokens)
  end
  at = at + 2 * count
end

local function keep_answers()
  local letters = table.concat(answers)
  if alive then redis.call('HSET', OWNER .. owner, 'settle', request, 'answers', letters) end
  return letters
end
if #rest == 0 and ARGV[at] == '0' then return keep_answers() end

-- Needs removal, lines and flows from here on: most acknowledgements do without, and would pay for it more than for all of the above.

for _, acknowledged in ipairs(rest) do
  local ids, counted = acknowledged[1], acknowledged[2]
  if counted ~= '' then lines().free(counted, #ids, false) end
  local records = acknowledged[3] and redis.call('HMGET', JOBS, unpack(ids)) or {}
  for n = 1, #records do
    if records[n] then finish(ids[n], parse(records[n]), 'done', 0) end
  end
  if #ended_members > 0 then flows().proceed() end
end

if ARGV[at] == '0' then
  carry_on()
  return keep_answers()
end

-- Needs queue, telling and done from here on.

-- Release, retry or defer.
local function send_back(id, job, token, outcome, after, error)
  if outcome == 'release' then
    stand(id, job, string.match(token, ':(%d+)'), true)
  else
    local history = history_of(id)
    if outcome == 'retry' then history[1] = history[1] + 1 else history[4] = history[4] + 1 end
    keep_history(id, history, outcome == 'retry' and error)
    if after > 0 then
      redis.call('ZADD', LATER .. job.topic, now + after, id)
    else
      stand(id, job, place(job.priority, now))
    end
  end
  if after < SOON then wake(job.topic) end
end

-- Give a job other limits: write its record anew.
local function limit_anew(id, record, job, limits)
  redis.call('HSET', JOBS, id, anew(record, job, limits))
  job.tenant = job.tenant or ''
  if job.flow then limits = { unpack(limits) } end
  if job.flow then limits[#limits + 1] = '>' end
  job.line = #limits > 0 and table.concat(limits, '\n') or nil
  lines().need_schema(2)
end

-- End a job that is done and kept.
local function keep(id, job, ttl, result, told, most)
  local record, cursor, lines = redis.call('HGET', JOBS, id), redis.call('HGET', CURSORS, id) or '', told[4]
  if #lines > 0 then redis.call('SET', LOG .. id, cmsgpack.pack(lines), 'PX', whole(math.max(1, math.ceil(ttl / 1000)))) end
  local kept = { record, cursor, history_of(id), told[3], told[5], #lines > 0 and 1 or 0 }
  finish(id, job, 'done', ttl, result, nil, kept)
  list_done(id, job.topic, ttl, most)
end

local function settle(id, token, topic, from)
  local concerns = ARGV[from + 11] ~= '' and cmsgpack.unpack(ARGV[from + 11])
  if concerns then
    local CLOSED = lines().CLOSED
    for n = 1, #concerns[3], 2 do
      local limit, till = concerns[3][n], now + tonumber(concerns[3][n + 1])
      if till > tonumber(redis.call('ZSCORE', CLOSED, limit) or 0) then redis.call('ZADD', CLOSED, till, limit) end
    end
    for n = 1, #concerns[3], 2 do lines().has_room(concerns[3][n]) end
  end
  local outcome, after, counts = ARGV[from], tonumber(ARGV[from + 1]), tonumber(ARGV[from + 2])
  local reason, error, ttl = ARGV[from + 3], ARGV[from + 4], tonumber(ARGV[from + 7])
  redis.call('HDEL', held, id)
  redis.call('HINCRBY', RESERVED, topic, -1)
  if string.find(token, '\n', 1, true) then lines().free(token, 1, concerns and not concerns[1]) end
  local record = redis.call('HGET', JOBS, id)
  if not record then return end
  local job = parse(record, topic)
  if job.broken then
    -- A complete record, so that browse can show the job.
    redis.call('HSET', JOBS, id, whole(now) .. ' 0 ' .. #topic .. ' 0 n|' .. topic .. record)
  end
  if ARGV[from + 9] == '1' then redis.call('HSET', CURSORS, id, ARGV[from + 10]) end
  local told
  if ARGV[from + 13] ~= '0' then
    told = told_by(id, token, from + 15)
    add_run(told, ARGV[from + 14])
  end
  if told and outcome ~= 'done' then redis.call('HSET', NOTES, id, cmsgpack.pack(told)) end
  if outcome == 'done' then
    local result, most = ARGV[from + 5] == '1' and ARGV[from + 6], tonumber(ARGV[from + 12])
    if most then keep(id, job, ttl, result, told, most) else finish(id, job, 'done', ttl, result) end
  elseif outcome == 'cancelled' then
    finish(id, job, 'cancelled', ttl)
  elseif outcome == 'dead' or outcome == 'expired' then
    local history = history_of(id)
    if outcome == 'dead' then history[1] = history[1] + counts end
    bury(id, job, history, reason, error, tonumber(ARGV[from + 8]), concerns and concerns[4])
  elseif redis.call('SISMEMBER', CANCEL, cancel_mark(id, job)) == 1 or (job.flow and flows().barred(id, job)) then
    finish(id, job, 'cancelled', cancelled_ttl)
  else
    if concerns and concerns[2] and not job.broken then limit_anew(id, record, job, concerns[2]) end
    send_back(id, job, token, outcome, after, error)
  end
  local added = from + 14 + tonumber(ARGV[from + 13])
  local followups = tonumber(ARGV[added])
  if followups > 0 then
    add(added + 1, followups, cancelled_ttl, { id = id, job = job, most = tonumber(ARGV[from + 8]) })
  end
  if #ended_members > 0 then flows().proceed() end
end

for _ = 1, tonumber(ARGV[at]) do
  local id, token, topic = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if redis.call('HGET', held, id) == token then
    settle(id, token, topic, at + 4)
    answer('s')
  else
    answer('-')
  end
  at = at + 18 + tonumber(ARGV[at + 17])
  at = at + 4 * tonumber(ARGV[at])
end

carry_on()
return keep_answers()
