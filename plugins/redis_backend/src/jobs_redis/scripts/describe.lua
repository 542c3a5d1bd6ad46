-- Describe a job, for operators. Needs common, lines, removal, flows and done.

local with_lines = false -- whether log lines are part of a description

-- What a job has told: {progress, {line ...}, {entry of its timeline ...}}; empty for most.
local function notes_of(id)
  local packed = redis.call('HGET', NOTES, id)
  if not packed then return '' end
  local told = cmsgpack.unpack(packed)
  return { told[3], with_lines and told[4] or {}, told[5] }
end

-- {state, id, topic, since, has a result (0 or 1), result, reason} of a job that has ended; for a done job that is kept, also
-- record, cursor, what it has told, {history ...}.
local function describe_end(id, ended, with_result)
  local state, topic, at, _, has, result, reason, kept = unpack(ended, 1, 8)
  local found = { state, id, topic, at, with_result and has or 0, with_result and result or '', reason or '' }
  if kept then
    local lines = with_lines and kept[6] == 1 and redis.call('GET', LOG .. id)
    local told = { kept[4], lines and cmsgpack.unpack(lines) or {}, kept[5] }
    found[8], found[9], found[10], found[11] = kept[1], kept[2], told, kept[3]
  end
  return found
end

-- {state, id, record, since, due, owner, cancel, cursor, limit of a limited job or packed {target ...} of a waiting one, what it
-- has told, history ...}; numbers are microseconds, as strings; a value that does not apply is empty.
local function describe(id, record, state, since, due, owner, limit)
  local cancel = redis.call('SISMEMBER', CANCEL, cancel_mark(id, parse(record)))
  if state == 'reserved' and cancel == 0 and redis.call('EXISTS', base .. 'flows-cancelled') == 1 then
    local job = parse(record)
    if job.flow and flows().barred(id, job) then cancel = 1 end
  end
  if state == 'waiting' then limit = cmsgpack.pack(flows().waiting_for(parse(record))) end
  local found = { state, id, record, since and whole(since) or '', due and whole(due) or '', owner or '', cancel }
  found[#found + 1] = redis.call('HGET', CURSORS, id) or ''
  found[#found + 1] = limit or ''
  found[#found + 1] = notes_of(id)
  for _, fact in ipairs(history_of(id)) do found[#found + 1] = fact end
  return found
end

local function holder_of(id)
  for _, owner in ipairs(redis.call('ZRANGE', OWNERS, 0, -1)) do
    if redis.call('HEXISTS', HELD .. owner, id) == 1 then return owner end
  end
  return ''
end

local function find(id)
  local record = redis.call('HGET', JOBS, id)
  if not record then
    local ended = redis.call('GET', base .. 'ended:' .. id)
    ended = ended and cmsgpack.unpack(ended)
    return ended and tonumber(ended[4]) > now and describe_end(id, ended, true) or {}
  end
  local job = parse(record)
  local topic = job.topic
  local line, lined
  if job.tenant then line, lined = lines().where(id, job) end
  if line then
    local limit = redis.call('HGET', LINES .. topic, line) or ''
    return describe(id, record, limit == '' and 'ready' or 'limited', place_time(lined), nil, nil, limit)
  end
  local ready = redis.call('ZSCORE', READY .. topic, id)
  if ready then return describe(id, record, 'ready', place_time(ready)) end
  local due = redis.call('ZSCORE', LATER .. topic, id)
  if due and tonumber(due) <= now then return describe(id, record, 'ready', tonumber(due)) end
  if due then return describe(id, record, 'scheduled', nil, tonumber(due)) end
  local died = redis.call('ZSCORE', DEAD .. topic, id) or redis.call('ZSCORE', NEEDED .. topic, id)
  if died then return describe(id, record, 'dead', tonumber(died)) end
  local waits = job.flow and redis.call('ZSCORE', WAITING .. topic, id)
  if waits then return describe(id, record, 'waiting', place_time(waits)) end
  return describe(id, record, 'reserved', nil, nil, holder_of(id))
end
