-- How jobs come in: stored, and put in line or scheduled. Needs common and endings.

local SOON = 5000000 -- a job due within this wakes a waiting worker, which then waits for it; others look that often

-- Put scheduled jobs that are due in line, where they would stand had they been put there in time.
local function line_up_due(topic, most)
  local due = redis.call('ZRANGEBYSCORE', LATER .. topic, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  if #due == 0 then return 0 end
  local ids, places = {}, {}
  for n = 1, #due, 2 do ids[#ids + 1] = due[n] end
  local records = redis.call('HMGET', JOBS, unpack(ids))
  for n = 1, #ids do
    if records[n] then
      places[#places + 1] = place(parse(records[n]).priority, tonumber(due[2 * n]))
      places[#places + 1] = ids[n]
    end
  end
  call_with('ZADD', READY .. topic, places)
  redis.call('ZREM', LATER .. topic, unpack(ids))
  return #ids
end

-- Give a message its unique key; who holds it instead, or nil.
local function take_key(id, key, timed, replaces, cancelled_ttl)
  local held = redis.call('HGET', UNIQUE, key)
  if held then
    local till, holder = string.match(held, '^(%d+) (.*)$')
    till = tonumber(till)
    if till == 0 or till > now then
      local record = replaces and redis.call('HGET', JOBS, holder)
      if not record then return holder end
      local job = parse(record)
      if not take_out(holder, job) then return holder end
      finish(holder, job, 'cancelled', cancelled_ttl)
    end
  end
  redis.call('HSET', UNIQUE, key, whole(timed > 0 and now + timed or 0) .. ' ' .. id)
  if timed > 0 then redis.call('ZADD', UNTIL, now + timed, key) else redis.call('ZREM', UNTIL, key) end
  return nil
end

-- Store messages from ARGV, four values each: id, topic, record without its time, and extra, which is empty or
-- "delay replaces timed" (microseconds, 0 or 1, microseconds). Returns {id, holder, ...} of those refused by a key.
local function add(first, count, cancelled_ttl)
  local ids = {}
  for n = 0, count - 1 do ids[n + 1] = ARGV[first + 4 * n] end
  local known = call_with('HMGET', JOBS, ids)
  local seen, conflicts, records, lines, later, touched = {}, {}, {}, {}, {}, {}
  for n = 0, count - 1 do
    local id, at = ids[n + 1], first + 4 * n
    local topic, tail, extra = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    if not known[n + 1] and not seen[id] then
      seen[id] = true
      local record, delay, holder = whole(now + n) .. ' ' .. tail, 0, nil
      if extra ~= '' then
        local replaces, timed
        delay, replaces, timed = string.match(extra, '^(%d+) (%d) (%d+)$')
        delay = tonumber(delay)
        local job = parse(record)
        if job.key ~= '' then holder = take_key(id, job.key, tonumber(timed), replaces == '1', cancelled_ttl) end
        if job.key ~= '' and not holder then redis.call('HSET', JOBS, id, record) end -- what a later one may replace
      end
      if holder then
        conflicts[#conflicts + 1] = id
        conflicts[#conflicts + 1] = holder
      else
        records[#records + 1] = id
        records[#records + 1] = record
        local list = delay > 0 and later or lines
        local places = list[topic]
        if not places then
          places = {}
          list[topic] = places
        end
        if delay > 0 then
          places[#places + 1] = now + n + delay
        else
          places[#places + 1] = place(string.byte(tail, 1) - 48, now + n)
        end
        places[#places + 1] = id
        if extra ~= '' then -- keyed ones are put in line at once, for the same reason
          redis.call('ZADD', (delay > 0 and LATER or READY) .. topic, places[#places - 1], id)
        end
        if delay < SOON then touched[topic] = 1 elseif not touched[topic] then touched[topic] = 0 end
      end
    end
  end
  if #records > 0 then call_with('HSET', JOBS, records) end
  for topic, places in pairs(lines) do call_with('ZADD', READY .. topic, places) end
  for topic, places in pairs(later) do call_with('ZADD', LATER .. topic, places) end
  for topic, soon in pairs(touched) do
    redis.call('SADD', TOPICS, topic)
    if soon == 1 then wake(topic) end
  end
  return conflicts
end
