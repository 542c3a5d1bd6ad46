-- Delete a batch of a topic's jobs in one state for good. Needs common, removal, lines and flows.
--
-- ARGV     2 topic   3 state: ready, limited, scheduled, waiting or dead   4 limit
-- Result   how many
-- Cost     O(limit x log of the queue)

local its = lines()
-- Delete jobs of the lines in `zset`.
local function purge_lines(zset, most)
  local count = 0
  while count < most do
    local name = redis.call('ZRANGE', zset, 0, 0)[1]
    if not name then break end
    local key = its.LINE .. ARGV[2] .. '\n' .. name
    local ids = redis.call('ZRANGE', key, 0, most - count - 1)
    if #ids == 0 then break end
    redis.call('ZREM', key, unpack(ids))
    its.changed(ARGV[2], name, -#ids)
    for _, id in ipairs(ids) do
      local record = redis.call('HGET', JOBS, id)
      if record then finish(id, parse(record), 'unknown', 0) end
    end
    count = count + #ids
  end
  return count
end

local function ended(count)
  carry_on()
  return count
end

if ARGV[3] == 'limited' then return ended(purge_lines(its.SHUT .. ARGV[2], tonumber(ARGV[4]))) end

local places = { ready = READY, scheduled = LATER, waiting = WAITING, dead = DEAD }
local line, limit = places[ARGV[3]] .. ARGV[2], tonumber(ARGV[4])
local ids
if ARGV[3] == 'scheduled' then
  ids = redis.call('ZRANGEBYSCORE', line, '(' .. whole(now), '+inf', 'LIMIT', 0, limit)
else
  ids = redis.call('ZRANGE', line, 0, limit - 1)
  if ARGV[3] == 'ready' and #ids < limit then
    local due = redis.call('ZRANGEBYSCORE', LATER .. ARGV[2], '-inf', now, 'LIMIT', 0, limit - #ids)
    for n = 1, #due do ids[#ids + 1] = due[n] end
  end
  if ARGV[3] == 'dead' and #ids < limit then
    local needed = redis.call('ZRANGE', NEEDED .. ARGV[2], 0, limit - #ids - 1)
    for n = 1, #needed do ids[#ids + 1] = needed[n] end
    if #needed > 0 then redis.call('ZREM', NEEDED .. ARGV[2], unpack(needed)) end
  end
end
if ARGV[3] == 'dead' and #ids > 0 then uncount_letters(ARGV[2], ids) end
for _, id in ipairs(ids) do
  redis.call('ZREM', line, id)
  if ARGV[3] == 'ready' then redis.call('ZREM', LATER .. ARGV[2], id) end
  local record = redis.call('HGET', JOBS, id)
  if record then finish(id, parse(record), 'unknown', 0) end
end
if ARGV[3] == 'ready' then -- those behind a limit, too
  local count = #ids
  for _, zset in ipairs({ its.FILED, its.FAIR, its.SHUT }) do
    if count < limit then count = count + purge_lines(zset .. ARGV[2], limit - count) end
  end
  return ended(count)
end
return ended(#ids)
