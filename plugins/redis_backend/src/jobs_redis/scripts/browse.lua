-- List jobs of a topic in one state: the next to run first, the newest dead letter and done job first. Needs common, describe, done.
--
-- ARGV     2 topic   3 state   4 offset   5 limit
-- Result   {now, description of each job ...}: see describe.lua
-- Cost     O(limit); O(offset + limit) for ready jobs if the topic has lines, for limited ones, and for dead letters that flows need;
--          O(everything reserved) for reserved jobs

local its = lines()
local topic, state, offset, limit = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local places = {} -- {id, time, owner}

-- Gather the first jobs of the lines in these sets, and of `plain`, by position. A line whose first job comes too late ends it.
local function gather(sets, plain)
  local most, first, last = offset + limit, {}, math.huge
  local function merge(line, blocked_by)
    local jobs = redis.call('ZRANGE', line, 0, most - 1, 'WITHSCORES')
    for n = 1, #jobs, 2 do
      if tonumber(jobs[n + 1]) >= last then break end
      first[#first + 1] = { jobs[n], tonumber(jobs[n + 1]), blocked_by }
    end
    if #first >= most then
      table.sort(first, function(a, b) return a[2] < b[2] end)
      for n = #first, most + 1, -1 do first[n] = nil end
      last = first[most] and first[most][2] or math.huge
    end
  end
  if plain then merge(plain) end
  for _, set in ipairs(sets) do
    local found = redis.call('ZRANGE', set .. topic, 0, most - 1, 'WITHSCORES')
    for n = 1, #found, 2 do
      if tonumber(found[n + 1]) >= last then break end
      merge(its.LINE .. topic .. '\n' .. found[n], redis.call('HGET', LINES .. topic, found[n]))
    end
  end
  table.sort(first, function(a, b) return a[2] < b[2] end)
  for n = 1, #first do places[#places + 1] = { first[n][1], place_time(first[n][2]), nil, nil, nil, first[n][3] } end
end

-- Put a page's jobs, with their times, into their places after the first `before` ones.
local function put(jobs, before, time_of)
  for n = 1, #jobs, 2 do places[before + (n + 1) / 2] = { jobs[n], time_of(jobs[n + 1]) } end
end

if state == 'ready' then
  local ready = 0
  if redis.call('EXISTS', its.FILED .. topic, its.FAIR .. topic) > 0 then
    gather({ its.FILED, its.FAIR }, READY .. topic)
    ready = #places
  else
    ready = redis.call('ZCARD', READY .. topic)
    put(redis.call('ZRANGE', READY .. topic, offset, offset + limit - 1, 'WITHSCORES'), offset, place_time)
  end
  if ready < offset + limit then
    local before = math.max(offset, ready)
    local due = { 'LIMIT', before - ready, offset + limit - before }
    put(redis.call('ZRANGEBYSCORE', LATER .. topic, '-inf', now, 'WITHSCORES', unpack(due)), before, tonumber)
  end
elseif state == 'limited' then
  gather({ its.SHUT })
elseif state == 'scheduled' then
  local from = '(' .. whole(now)
  put(redis.call('ZRANGEBYSCORE', LATER .. topic, from, '+inf', 'WITHSCORES', 'LIMIT', offset, limit), offset, tonumber)
elseif state == 'dead' and redis.call('EXISTS', NEEDED .. topic) == 0 then
  put(redis.call('ZREVRANGE', DEAD .. topic, offset, offset + limit - 1, 'WITHSCORES'), offset, tonumber)
elseif state == 'dead' then
  for _, letters in ipairs({ DEAD .. topic, NEEDED .. topic }) do
    local dead = redis.call('ZREVRANGE', letters, 0, -1 + offset + limit, 'WITHSCORES')
    for n = 1, #dead, 2 do places[#places + 1] = { dead[n], tonumber(dead[n + 1]) } end
  end
  table.sort(places, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] > b[1]) end)
elseif state == 'waiting' then
  put(redis.call('ZRANGE', WAITING .. topic, offset, offset + limit - 1, 'WITHSCORES'), offset, place_time)
elseif state == 'reserved' then
  for _, owner in ipairs(redis.call('ZRANGE', OWNERS, 0, -1)) do
    local held = redis.call('HGETALL', HELD .. owner)
    for n = 1, #held, 2 do
      local number, score, of = string.match(held[n + 1], '^(%d+):(%d+):([^\n]*)')
      if of == topic then places[#places + 1] = { held[n], nil, owner, tonumber(number), tonumber(score) } end
    end
  end
  table.sort(places, function(a, b) return a[4] < b[4] or (a[4] == b[4] and a[5] < b[5]) end)
end

local found = { whole(now) }
if state == 'done' then
  -- Pages are complete, so that a reader knows the last one: jobs whose time is over are dropped first, except for a great many.
  for _ = 1, 10 do
    if drop_done(topic, DROPPED_AT_ONCE) < DROPPED_AT_ONCE then break end
  end
  while #found <= limit do
    local ids = redis.call('ZREVRANGE', DONE .. topic, offset, offset + limit - #found)
    if #ids == 0 then break end
    for _, id in ipairs(ids) do
      local ended = kept_job(id)
      if ended then found[#found + 1] = describe_end(id, ended, false) end
    end
    offset = offset + #ids
  end
end
for n = offset + 1, offset + limit do
  if not places[n] then break end
  local id, time, owner = unpack(places[n], 1, 3)
  local record = redis.call('HGET', JOBS, id)
  if record then
    local since, due = time, nil
    if state == 'scheduled' then since, due = nil, time end
    found[#found + 1] = describe(id, record, state, since, due, owner, places[n][6])
  end
end
return found
