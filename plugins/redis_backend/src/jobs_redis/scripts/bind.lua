-- Bind the unique keys that these jobs hold loosely, since all of the jobs are now in the queue. Needs common.
--
-- ARGV     from the second on, three values a job: id, key, microseconds for which the key is held (0: as long as the job)
-- Result   {id, holder, ...} of the jobs that were cancelled because another job took their key over; holder is empty if
--          that job holds the key loosely
-- Cost     O(jobs)

local others, taken_over = {}, {}
for n = 2, #ARGV, 3 do
  local id, key, timed = ARGV[n], ARGV[n + 1], tonumber(ARGV[n + 2])
  local held = redis.call('HGET', UNIQUE, key)
  local holder = held and string.match(held, '^%d+[ ?](.*)$')
  if holder == id or (not held and timed > 0) then
    redis.call('HSET', UNIQUE, key, whole(timed > 0 and now + timed or 0) .. ' ' .. id)
    if timed > 0 then redis.call('ZADD', UNTIL, now + timed, key) end
  elseif holder then
    others[#others + 1] = n
  end
end
for _, n in ipairs(others) do
  local id, ended = ARGV[n], redis.call('GET', base .. 'ended:' .. ARGV[n])
  if ended and cmsgpack.unpack(ended)[1] == 'cancelled' then
    local mark, holder = string.match(redis.call('HGET', UNIQUE, ARGV[n + 1]), '^%d+([ ?])(.*)$')
    taken_over[#taken_over + 1], taken_over[#taken_over + 2] = id, mark == ' ' and holder or ''
  end
end
return taken_over
