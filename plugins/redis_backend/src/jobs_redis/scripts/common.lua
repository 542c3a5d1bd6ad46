-- Names of keys, and the format of records; the first part of most scripts. Needs order.

local JOBS, HISTORY, OWNERS, RESERVED = base .. 'job', base .. 'history', base .. 'owners', base .. 'reserved'
local FORCED = '\0force' -- follows the id of a job whose worker may be replaced to end it
local TOPICS, PAUSED, CANCEL = base .. 'topics', base .. 'paused', base .. 'cancel'
local UNIQUE, UNTIL, FOLLOWERS, META = base .. 'unique', base .. 'unique-until', base .. 'followers', base .. 'meta'
local CURSORS = base .. 'cursor' -- of resumable jobs
local PUSHED, REFUSED = base .. 'pushed', base .. 'refused' -- by topic: how many jobs pushes added, and did not add
local NOTES = base .. 'note' -- what jobs have told
local READY, LATER, DEAD, INLET, WAKE = base .. 'ready:', base .. 'later:', base .. 'dead:', base .. 'in:', base .. 'wake:'
local HELD, OWNER = base .. 'held:', base .. 'owner:'
local LINES = base .. 'lines:' -- lines.lua has the other names of keys of lines and limits
local CHUNK = 4000 -- most values that one unpack() may put on Lua's stack; even, so that pairs stay together

-- A full Redis refuses commands that need memory, except in a script that has already written: so begin with a write that
-- needs none, for scripts that must work even then, as settle and heartbeat. (Redis 7 has a flag for this; 6.2 has not.)
local function although_full() redis.call('DEL', base .. 'nothing') end

local function place_time(score) return tonumber(score) % SPAN + EPOCH end

-- A record is "pushed priority topic-length key-length scope|" .. topic .. unique key .. payload; scope is n(one),
-- q(ueued), d(one) or t(ime). A job with a key or limits has another length before the | and, before the payload, so many
-- bytes: packed {key, limit, limit ...}; `line` is then the name of its line, its limits in lines of text. The last limit of
-- a member of a flow is >, which limits nothing, and its scope is a capital letter; {flow, delay} follows, then its place:
-- {stage, after, when, inputs, label}, with the lengths of the first two packed values behind it. A value of any other form
-- (another program wrote it) counts as a payload, of the given topic.
local function parse(record, topic)
  local pushed, priority, topic_length, key_length, scope, start = string.match(record, '^(%d+) (%d) (%d+) (%d+) (%a)|()')
  local lined
  if not start then
    local with_line = '^(%d+) (%d) (%d+) (%d+) (%a) (%d+)|()'
    pushed, priority, topic_length, key_length, scope, lined, start = string.match(record, with_line)
  end
  if not start then return { pushed = 0, priority = 0, scope = 'n', topic = topic or '', key = '', broken = true } end
  local key_start = start + topic_length
  local job = {
    pushed = tonumber(pushed), priority = tonumber(priority), scope = scope,
    topic = string.sub(record, start, key_start - 1), key = string.sub(record, key_start, key_start + key_length - 1),
  }
  if lined then
    local own = string.sub(record, key_start + key_length, key_start + key_length + lined - 1)
    local next_at, facts = cmsgpack.unpack_one(own)
    if next_at > 0 then
      local place_at, head = cmsgpack.unpack_one(own, next_at)
      job.flow, job.delay, job.place, job.scope = head[1], head[2], string.sub(own, place_at + 1), string.lower(scope)
      job.rest = string.sub(own, next_at + 1)
    end
    job.tenant = table.remove(facts, 1)
    if #facts > 0 then job.line = table.concat(facts, '\n') end
  end
  return job
end

-- History: {attempt, redeliveries, crashes, deferrals, reason, error, error ...}; most jobs have none.
local function history_of(id)
  local packed = redis.call('HGET', HISTORY, id)
  return packed and cmsgpack.unpack(packed) or { 0, 0, 0, 0, '' }
end
local function keep_history(id, history, error)
  if error and error ~= '' then
    history[#history + 1] = error
    if #history > 15 then table.remove(history, 6) end
  end
  redis.call('HSET', HISTORY, id, cmsgpack.pack(history))
end

local function wake(topic)
  if redis.call('SISMEMBER', PAUSED, topic) == 0 then redis.call('ZADD', WAKE .. topic, 0, 1) end
end

-- Call a command with a long list of values, in pieces; return the concatenated answers.
local function call_with(command, key, values)
  if #values <= CHUNK then return redis.call(command, key, unpack(values)) end
  local answers = {}
  for first = 1, #values, CHUNK do
    local answer = redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
    if type(answer) == 'table' then
      for n = 1, #answer do answers[#answers + 1] = answer[n] end
    end
  end
  return answers
end
