-- The names of keys, and records. Every other script begins with it. Needs order.

local JOBS, HISTORY, OWNERS, RESERVED = base .. 'job', base .. 'history', base .. 'owners', base .. 'reserved'
local FORCED = '\0force' -- stands behind the id of a job that is to be ended by whatever means
local TOPICS, PAUSED, CANCEL = base .. 'topics', base .. 'paused', base .. 'cancel'
local UNIQUE, UNTIL, FOLLOWERS, META = base .. 'unique', base .. 'unique-until', base .. 'followers', base .. 'meta'
local READY, LATER, DEAD, INLET, WAKE = base .. 'ready:', base .. 'later:', base .. 'dead:', base .. 'in:', base .. 'wake:'
local HELD, OWNER = base .. 'held:', base .. 'owner:'
local CHUNK = 4000 -- most values that one unpack() may put on Lua's stack; even, for pairs

-- A full Redis refuses what needs memory, unless the script has written before: settling and beating must go on.
-- (A flag of Redis 7 says the same; this works on 6.2 too.)
local function although_full() redis.call('DEL', base .. 'nothing') end

local function place_time(score) return tonumber(score) % SPAN + EPOCH end

-- A record is "pushed priority topic-length key-length scope|" .. topic .. unique key .. payload; scope is n(one),
-- q(ueued), d(one) or t(ime). What is none (somebody else wrote it) counts as a payload, of the topic if that is known.
local function parse(record, topic)
  local pushed, priority, topic_length, key_length, scope, start = string.match(record, '^(%d+) (%d) (%d+) (%d+) (%a)|()')
  if not start then return { pushed = 0, priority = 0, scope = 'n', topic = topic or '', key = '', broken = true } end
  local key_start = start + topic_length
  return {
    pushed = tonumber(pushed), priority = tonumber(priority), scope = scope,
    topic = string.sub(record, start, key_start - 1), key = string.sub(record, key_start, key_start + key_length - 1),
  }
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

-- Call a command with a long list of values, in pieces; answers are put one after the other.
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
