-- Store jobs, as ready or scheduled ones, or as members of flows. Needs common, removal, lines and flows.

local SOON = 5000000 -- a job due within 5 s wakes a waiting worker, which then waits for it; all look every 5 s anyway

-- Give a message its unique key. If another job keeps the key, return that job's id; else nil, and when the key expires, or
-- 0. A key that is held loosely is taken over from a waiting job, unless that job is of the same push. If jobs replace each
-- other while they are queued (bounded), each new one inherits the expiry of the job that it replaces.
local function take_key(id, key, timed, bounded, replaces, loosely, seen, cancelled_ttl)
  local ends = timed > 0 and now + timed or 0
  local held = redis.call('HGET', UNIQUE, key)
  if held then
    local till, mark, holder = string.match(held, '^(%d+)([ ?])(.*)$')
    till = tonumber(till)
    if till == 0 or till > now then
      local takes = mark == '?' and not seen[holder]
      if not takes and not replaces then return holder end
      local record = redis.call('HGET', JOBS, holder)
      if record then
        local job = parse(record)
        if job.flow or not take_out(holder, job) then return holder end
        if bounded and job.scope == 'q' and till > 0 then ends = math.min(ends, till) end
        finish(holder, job, 'cancelled', cancelled_ttl)
      elseif not takes then
        return holder
      end
    end
  end
  redis.call('HSET', UNIQUE, key, whole(ends) .. (loosely and '?' or ' ') .. id)
  if timed > 0 then redis.call('ZADD', UNTIL, ends, key) else redis.call('ZREM', UNTIL, key) end
  return nil, ends
end

-- Store messages from ARGV, four values each: id, topic, record without its time, and extra, which is empty or
-- "delay replaces timed chosen" (microseconds, 0 or 1, microseconds, 0 or 1), followed by ? to hold the key loosely.
-- Return {id, holder, ...} of the messages whose key another job holds, and {id, id} of those with a chosen id that is known:
-- in the queue, or of a job whose end is kept. Messages without a key are gathered and stored with few commands; a message
-- with a key is stored at once, because the next one may be refused by it, or replace it. Members of flows are added `by` a
-- settled member {id, job}; one that cannot be in the flow, or whose key another job holds, becomes a dead letter.
local function add(first, count, cancelled_ttl, by)
  local ids = {}
  for n = 0, count - 1 do ids[n + 1] = ARGV[first + 4 * n] end
  local known = call_with('HMGET', JOBS, ids)
  local seen, conflicts, records, ready, later, touched, lined, entered, pushed = {}, {}, {}, {}, {}, {}, {}, {}, {}

  local function gather(queues, topic, at, id)
    local places = queues[topic]
    if not places then
      places = {}
      queues[topic] = places
    end
    places[#places + 1], places[#places + 2] = at, id
  end

  for n = 0, count - 1 do
    local id, at, from = ids[n + 1], now + n, first + 4 * n
    local topic, tail, extra = ARGV[from + 1], ARGV[from + 2], ARGV[from + 3]
    local chosen = string.find(extra, ' 1%??$') ~= nil
    local there = known[n + 1] or (chosen and not seen[id] and redis.call('EXISTS', base .. 'ended:' .. id) == 1)
    if there and chosen and not seen[id] then
      conflicts[#conflicts + 1], conflicts[#conflicts + 2] = id, id
      redis.call('HINCRBY', REFUSED, topic, 1)
    end
    if not there and not seen[id] then
      seen[id] = true
      local record, delay, holder, key, own, member, take = whole(at) .. ' ' .. tail, 0, nil, '', nil, nil, nil
      if extra ~= '' then
        local replaces, timed, loosely
        delay, replaces, timed, loosely = string.match(extra, '^(%d+) (%d) (%d+) %d(%??)$')
        local job = parse(record)
        own = job.tenant and lines().line_for(job)
        if job.tenant then lines().need_schema(job.flow and 3 or 2) end
        member = job.flow and job
        delay, key, timed = tonumber(delay), job.key, tonumber(timed)
        if key ~= '' then
          local bounded, ends = timed > 0 and job.scope == 'q', nil
          if member then
            take = function() return (take_key(id, key, timed, bounded, replaces == '1', loosely == '?', seen, cancelled_ttl)) end
          else
            holder, ends = take_key(id, key, timed, bounded, replaces == '1', loosely == '?', seen, cancelled_ttl)
          end
          if bounded and ends then delay = math.min(delay, ends - now) end
        end
      end
      local line, where = READY .. topic, place(string.byte(tail, 1) - 48, at)
      if delay > 0 then
        line, where = LATER .. topic, at + delay
      elseif own then
        line = lines().LINE .. topic .. '\n' .. own
      end
      if holder then
        conflicts[#conflicts + 1], conflicts[#conflicts + 2] = id, holder
        redis.call('HINCRBY', REFUSED, topic, 1)
      elseif member then
        flows().join(id, record, member, by, by and by.most or 100000, at, take)
      elseif key ~= '' then
        redis.call('HSET', JOBS, id, record)
        redis.call('ZADD', line, where, id)
        if own and delay <= 0 then lines().changed(topic, own, 1) end
      else
        records[#records + 1], records[#records + 2] = id, record
        if delay > 0 or not own then
          gather(delay > 0 and later or ready, topic, where, id)
        else
          lined[topic] = lined[topic] or {}
          if not lined[topic][own] then entered[#entered + 1] = { topic, own } end -- keys get their turns in this order
          gather(lined[topic], own, where, id)
        end
      end
      if not holder then pushed[topic] = (pushed[topic] or 0) + 1 end
      if not holder and not member then touched[topic] = touched[topic] or delay < SOON end
    end
  end
  if #records > 0 then call_with('HSET', JOBS, records) end
  for topic, places in pairs(ready) do call_with('ZADD', READY .. topic, places) end
  for topic, places in pairs(later) do call_with('ZADD', LATER .. topic, places) end
  for _, its in ipairs(entered) do
    local topic, own = its[1], its[2]
    local places = lined[topic][own]
    call_with('ZADD', lines().LINE .. topic .. '\n' .. own, places)
    lines().changed(topic, own, #places / 2)
  end
  for topic, number in pairs(pushed) do redis.call('HINCRBY', PUSHED, topic, number) end
  for topic, soon in pairs(touched) do
    redis.call('SADD', TOPICS, topic)
    if soon then wake(topic) end
  end
  return conflicts
end
