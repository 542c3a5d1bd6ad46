-- Check whether a job has ended; if not, have its end reported through the list "end:<id>". Needs common, describe.
--
-- ARGV     2 id   3 microseconds for which its end is reported
-- Result   {now, description}: see describe.lua, an empty list for an unknown job; false if it has not ended
-- Cost     O(owners)

local found = find(ARGV[2])
if found[1] == 'ready' or found[1] == 'limited' or found[1] == 'scheduled' or found[1] == 'reserved'
  or found[1] == 'waiting' then
  although_full()
  redis.call('DEL', base .. 'end:' .. ARGV[2]) -- left by an earlier end, if the job was requeued since
  redis.call('ZADD', FOLLOWERS, 'GT', now + ARGV[3], ARGV[2])
  return false
end
return { whole(now), found }
