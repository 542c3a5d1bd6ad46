-- Do a bounded amount of periodic maintenance; several machines may do it.
-- Needs common, removal, lines, due, document, done, letter_keeping, statistics, flows.
--
-- ARGV     2 lease   3 pause of housekeeping itself after which leases are extended   4 time to live of a cancelled job
--          5 limit of each kind   6 ... topic, age at which its dead letters are dropped. All times in microseconds
-- Result   {jobs made ready, owners released, dropped, 1 if there may be more, {topics in use that are not in the arguments},
--          {topics with dead letters that have no fingerprint yet}}
-- Cost     O(limit x log of the queue) and O(topics)

local its = lines()
local lease, limit, cancelled_ttl = tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[4])
although_full()

-- A housekeeper of the previous release, which runs on after its workers have stopped, forgets topics that only have lines, and
-- takes the end of a limited job's token for a topic: its jobs and counts are then found under that name.
local lined, reserved = redis.call('HGETALL', its.LINED), redis.call('HGETALL', RESERVED)
for n = 1, #lined, 2 do redis.call('SADD', TOPICS, lined[n]) end
for _, topic in ipairs(redis.call('SMEMBERS', WAITING_TOPICS)) do
  if redis.call('EXISTS', WAITING .. topic, NEEDED .. topic) > 0 then
    redis.call('SADD', TOPICS, topic)
  else
    redis.call('SREM', WAITING_TOPICS, topic)
  end
end
for n = 1, #reserved, 2 do
  local name, count = reserved[n], reserved[n + 1]
  local topic, counted = string.match(name, '^([^\n]*)(\n.*)$')
  if topic then
    redis.call('HDEL', RESERVED, name)
    redis.call('HINCRBY', RESERVED, topic, count)
    its.free(counted, -count, false)
    local strays = redis.call('ZRANGE', READY .. name, 0, -1, 'WITHSCORES')
    for n = 1, #strays, 2 do
      local record = redis.call('HGET', JOBS, strays[n])
      if record then stand(strays[n], parse(record), strays[n + 1]) end
    end
    redis.call('DEL', READY .. name, WAKE .. name)
    wake(topic)
  end
end

local keep, new = {}, {}
for n = 6, #ARGV, 2 do keep[ARGV[n]] = tonumber(ARGV[n + 1]) end
local readied, dropped, miscounted, unnamed = 0, 0, false, {}
for _, topic in ipairs(redis.call('SMEMBERS', TOPICS)) do
  local lined_up = readied < limit and line_up_due(topic, math.min(limit - readied, 2000)) or 0
  readied = readied + lined_up
  if lined_up > 0 or redis.call('EXISTS', READY .. topic, its.FILED .. topic, its.FAIR .. topic, its.OPENING .. topic) > 0 then
    wake(topic) -- also replaces a lost token
  end
  if not keep[topic] then
    new[#new + 1] = topic
  else
    local old = redis.call('ZRANGEBYSCORE', DEAD .. topic, '-inf', now - keep[topic], 'LIMIT', 0, math.min(limit, 2000))
    if #old > 0 then
      redis.call('ZREM', DEAD .. topic, unpack(old))
      redis.call('HDEL', JOBS, unpack(old))
      redis.call('HDEL', HISTORY, unpack(old))
      redis.call('HDEL', CURSORS, unpack(old))
      redis.call('HDEL', NOTES, unpack(old))
      uncount_letters(topic, old)
      dropped = dropped + #old
    end
  end
  miscounted = correct_groups(topic) or miscounted
  if redis.call('HEXISTS', CAUSES .. topic, '') == 1 then unnamed[#unnamed + 1] = topic end
  if redis.call('EXISTS', READY .. topic, LATER .. topic, DEAD .. topic, INLET .. topic, WAITING .. topic, NEEDED .. topic) == 0
    and redis.call('HEXISTS', its.LINED, topic) == 0
    and tonumber(redis.call('HGET', RESERVED, topic) or 0) <= 0 then
    redis.call('SREM', TOPICS, topic)
    redis.call('DEL', WAKE .. topic)
    redis.call('HDEL', RESERVED, topic)
  end
end

-- Topics that are named after customers must not fill the store: then all counts begin anew.
if redis.call('HLEN', PUSHED) + redis.call('HLEN', REFUSED) > 10000 then redis.call('DEL', PUSHED, REFUSED) end

local last = tonumber(redis.call('HGET', META, 'housekept') or 0)
redis.call('HSET', META, 'housekept', whole(now))
if now - last > tonumber(ARGV[3]) then -- no housekeeping for so long means an outage, in which no owner may lose its lease
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', OWNERS, '-inf', now + lease)) do
    redis.call('ZADD', OWNERS, now + lease, owner)
  end
end
-- After the clock was set back, the lease of a dead owner must not last forever.
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', OWNERS, '(' .. whole(now + 2 * lease), '+inf')) do
  redis.call('ZADD', OWNERS, now + 2 * lease, owner)
end
local released, jobs = 0, 0
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', OWNERS, '-inf', now, 'LIMIT', 0, limit)) do
  if jobs < limit and releasable > 0 then
    jobs = jobs + release(owner, nil, '', redis.call('HLEN', HELD .. owner) == 1 and 1 or 0, cancelled_ttl)
    released = released + 1
  end
end

for _, owner in ipairs(redis.call('ZRANGEBYSCORE', base .. 'retired', '-inf', now, 'LIMIT', 0, limit)) do
  if releasable <= 0 then break end
  if redis.call('ZSCORE', OWNERS, owner) then
    redis.call('ZREM', base .. 'retired', owner) -- it is back under the same name: its lease covers all that it holds
  else
    jobs = jobs + release_rest(owner, cancelled_ttl)
  end
end
local unreleased = redis.call('ZCOUNT', base .. 'retired', '-inf', now) > 0

for _, key in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', now, 'LIMIT', 0, limit)) do
  redis.call('ZREM', UNTIL, key)
  redis.call('HDEL', UNIQUE, key)
end
redis.call('ZREMRANGEBYSCORE', its.TAT, '-inf', now)
redis.call('ZREMRANGEBYSCORE', its.CLOSED, '-inf', now)
-- A change of definitions opens limits in slices, and a kill may end it half-way: look at a few limits in each round.
if redis.call('EXISTS', its.WAITING) == 1 then -- only stores with limits need the right to HSCAN
  local scanned = redis.call('HSCAN', its.WAITING, redis.call('HGET', META, 'limits-seen') or '0', 'COUNT', 100)
  redis.call('HSET', META, 'limits-seen', scanned[1])
  for n = 1, math.min(#scanned[2], 1000), 2 do its.has_room(scanned[2][n]) end
end
redis.call('ZREMRANGEBYSCORE', FOLLOWERS, '-inf', now)
local kinds = redis.call('HGETALL', VERSIONS)
for n = 1, #kinds, 2 do drop_expired(kinds[n], math.min(limit, 2000)) end

local more_statistics = keep_statistics(math.min(limit, 100))
local more_done = redis.call('EXISTS', DONE_TOPICS) == 1 and drop_all_done(math.min(limit, DROPPED_AT_ONCE))

-- Needs flow_keeping from here on.

local more_flows = false
if redis.call('EXISTS', flows().STATES) == 1 then more_flows = keep_flows(keep, limit) end
carry_on()
more_flows = more_flows or redis.call('EXISTS', flows().WORKING) == 1
local more = more_flows or more_done or more_statistics or miscounted or unreleased
more = more or readied >= limit or released >= limit or dropped >= limit or jobs >= limit
return { readied, released, dropped, more and 1 or 0, new, unnamed }
