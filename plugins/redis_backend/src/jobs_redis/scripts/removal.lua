-- End jobs: done or cancelled, dead, or released. Needs common, unique, lines, members and letters. Scripts that end jobs need flows, too.

local flows -- of flows.lua
local ended_members = {} -- {id, job, state, reason, result, most dead letters} of members of flows that this script has ended

local function tell_followers(id)
  if redis.call('ZREM', FOLLOWERS, id) == 1 then
    redis.call('RPUSH', base .. 'end:' .. id, 1)
    redis.call('PEXPIRE', base .. 'end:' .. id, 60000)
  end
end

-- Forget a job that is in no list any more; keep its end for ttl microseconds if it was cancelled, has a result, or is `kept`: see
-- done.lua.
local function finish(id, job, state, ttl, result, reason, kept)
  redis.call('HDEL', JOBS, id)
  redis.call('HDEL', HISTORY, id)
  redis.call('HDEL', CURSORS, id)
  redis.call('HDEL', NOTES, id)
  local mark = cancel_mark(id, job)
  redis.call('SREM', CANCEL, mark, mark .. FORCED)
  free_key(id, job)
  if ttl > 0 and (result or state == 'cancelled' or kept) then
    local ended = { state, job.topic, whole(now), whole(now + ttl), result and 1 or 0, result or '', reason }
    if kept then ended[7], ended[8] = '', kept end
    ended = cmsgpack.pack(ended)
    redis.call('SET', base .. 'ended:' .. id, ended, 'PX', whole(math.max(1, math.ceil(ttl / 1000))))
  end
  tell_followers(id)
  if job.flow and not job.told then ended_members[#ended_members + 1] = { id, job, state, reason or '', result } end
end

-- Delete the oldest dead letters of a topic beyond the most that it keeps.
local function trim(topic, most)
  local surplus = redis.call('ZCARD', DEAD .. topic) - most
  if surplus <= 0 then return end
  local oldest = redis.call('ZRANGE', DEAD .. topic, 0, math.min(surplus, 100) - 1)
  redis.call('ZREM', DEAD .. topic, unpack(oldest))
  redis.call('HDEL', JOBS, unpack(oldest))
  redis.call('HDEL', HISTORY, unpack(oldest))
  redis.call('HDEL', CURSORS, unpack(oldest))
  redis.call('HDEL', NOTES, unpack(oldest))
  uncount_letters(topic, oldest)
end

local buried = 0
-- Move a job that is in no list any more to the dead letters of its topic, of which the oldest make room, except those that
-- flows need. `of` is its fingerprint {id, kind, place, message}, if it is known.
local function bury(id, job, history, reason, error, most, of)
  free_key(id, job)
  local mark = cancel_mark(id, job)
  redis.call('SREM', CANCEL, mark, mark .. FORCED)
  history[5] = reason
  keep_history(id, history, error)
  redis.call('ZADD', (job.flow and NEEDED or DEAD) .. job.topic, now + buried, id)
  count_letter(job.topic, id, now + buried, of)
  buried = buried + 1
  if job.flow then
    ended_members[#ended_members + 1] = { id, job, 'dead', reason, false, most }
  else
    trim(job.topic, most)
  end
  tell_followers(id)
end

-- Remove a queued job from its list; return false if it is in none.
local function take_out(id, job)
  if job.flow and redis.call('ZREM', WAITING .. job.topic, id) == 1 then return true end
  if job.tenant and lines().leave(id, job) then return true end
  return redis.call('ZREM', READY .. job.topic, id) == 1 or redis.call('ZREM', LATER .. job.topic, id) == 1
end

local releasable = 1000 -- jobs that this script still releases, so that it does not take the server over 50 ms; one that stands
-- in a line of its own, because of limits, a key or a flow, costs as much as four others

-- Release the jobs of an owner, each at its former position, record a redelivery for the started ones, and forget the owner. An
-- owner with more jobs than this script releases is retired: it can reserve nothing, and `release_rest` goes on. Return how many
-- were released, and whether there are more.
-- started is a set of ids, or nil for all; crash is 1 if this counts as a crash, else 0. ran, if given, has the ids of started jobs
-- and of others that had started: their tokens are not given back.
local function release(owner, started, report, crash, cancelled_ttl, ran)
  local held = redis.call('HGETALL', HELD .. owner)
  local topics, released = {}, {}
  for n = 1, #held, 2 do
    if releasable <= 0 then break end
    released[#released + 1] = held[n]
    releasable = releasable - (string.find(held[n + 1], '\n', 1, true) and 4 or 1)
    local id, score = held[n], string.match(held[n + 1], ':(%d+)')
    if string.find(held[n + 1], '\n', 1, true) then lines().free(held[n + 1], 1, started and not (started[id] or ran and ran[id])) end
    local record = redis.call('HGET', JOBS, id)
    if record then
      local job = parse(record, string.match(held[n + 1], ':%d+:([^\n]*)'))
      topics[job.topic] = (topics[job.topic] or 0) + 1
      if redis.call('SISMEMBER', CANCEL, cancel_mark(id, job)) == 1 or (job.flow and flows().barred(id, job)) then
        finish(id, job, 'cancelled', cancelled_ttl)
      else
        if not started or started[id] then
          local history = history_of(id)
          history[2], history[3] = history[2] + 1, history[3] + crash
          keep_history(id, history, report)
        end
        stand(id, job, score, started and not started[id])
      end
    end
  end
  redis.call('ZREM', OWNERS, owner)
  local more = #released < #held / 2
  if more then
    call_with('HDEL', HELD .. owner, released)
    redis.call('ZADD', base .. 'retired', now, owner)
    redis.call('HSET', OWNER .. owner, 'release', cmsgpack.pack({ started or false, report, crash, ran or false }))
  else
    redis.call('DEL', HELD .. owner, OWNER .. owner)
    redis.call('ZREM', base .. 'retired', owner)
  end
  for topic, count in pairs(topics) do
    redis.call('HINCRBY', RESERVED, topic, -count)
    wake(topic)
  end
  return #released, more
end

-- Go on with the release of a retired owner.
local function release_rest(owner, cancelled_ttl)
  local begun = redis.call('HGET', OWNER .. owner, 'release')
  if not begun then return release(owner, nil, '', 0, cancelled_ttl) end -- retired by `need_schema`
  local started, report, crash, ran = unpack(cmsgpack.unpack(begun), 1, 4)
  return release(owner, started or nil, report, crash, cancelled_ttl, ran or nil)
end
