-- Done jobs that are kept. Needs common.
--
-- Each is the eighth value of its end, "ended:<id>": {record, cursor, history, progress, {entry of its timeline ...}, has log lines
-- (0 or 1)}. Its log lines have a key of their own, so that a page of jobs is read without them. Both expire by themselves. The
-- lists of a topic's done jobs follow in housekeeping; until then, jobs whose time is over are left out.

local LOG = base .. 'log:'
local DONE, DONE_UNTIL, DONE_TOPICS = base .. 'done:', base .. 'done-until:', base .. 'done-topics'
local DROPPED_AT_ONCE = 1000

-- Return a done job that is kept as its end, unpacked; nil if its time is over.
local function kept_job(id)
  local ended = redis.call('GET', base .. 'ended:' .. id)
  ended = ended and cmsgpack.unpack(ended)
  return ended and ended[8] and tonumber(ended[4]) > now and ended
end

local function unlist_done(topic, ids)
  redis.call('ZREM', DONE .. topic, unpack(ids))
  redis.call('ZREM', DONE_UNTIL .. topic, unpack(ids))
end

-- Keep of a done job only that it ended, and its result unless that goes, too; return false if its time is over.
local function strip_done(id, result_too)
  local ended = kept_job(id)
  if not ended then return false end
  if ended[8][6] == 1 then redis.call('DEL', LOG .. id) end
  ended[8] = nil
  if result_too then ended[5], ended[6] = 0, '' end
  redis.call('SET', base .. 'ended:' .. id, cmsgpack.pack(ended), 'KEEPTTL')
  return true
end

local listed = 0
-- List a job whose end was just kept. Beyond the most that a topic keeps, the oldest become plain ends, as those of other jobs.
local function list_done(id, topic, ttl, most)
  redis.call('ZADD', DONE .. topic, now + listed, id)
  redis.call('ZADD', DONE_UNTIL .. topic, now + ttl, id)
  redis.call('SADD', DONE_TOPICS, topic)
  listed = listed + 1
  local surplus = redis.call('ZCARD', DONE .. topic) - most
  if surplus <= 0 then return end
  local oldest = redis.call('ZRANGE', DONE .. topic, 0, math.min(surplus, 100) - 1)
  for _, old in ipairs(oldest) do
    strip_done(old, false)
  end
  unlist_done(topic, oldest)
end

-- Take jobs whose time is over from the list of a topic; return how many.
local function drop_done(topic, most)
  local old = redis.call('ZRANGEBYSCORE', DONE_UNTIL .. topic, '-inf', now, 'LIMIT', 0, most)
  if #old > 0 then unlist_done(topic, old) end
  return #old
end

-- Do the same for all topics; return whether there may be more.
local function drop_all_done(most)
  for _, topic in ipairs(redis.call('SMEMBERS', DONE_TOPICS)) do
    most = most - drop_done(topic, most)
    if most <= 0 then return true end
    if redis.call('EXISTS', DONE .. topic) == 0 then redis.call('SREM', DONE_TOPICS, topic) end
  end
  return false
end
