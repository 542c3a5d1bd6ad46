-- Store the cursors of reserved jobs. Needs common.
--
-- ARGV     2 owner   3 ... id, token, cursor of each; those with a stale token are ignored
-- Result   how many were stored
-- Cost     O(jobs)

local count = 0
although_full()
for n = 3, #ARGV, 3 do
  if redis.call('HGET', HELD .. ARGV[2], ARGV[n]) == ARGV[n + 1] then
    redis.call('HSET', CURSORS, ARGV[n], ARGV[n + 2])
    count = count + 1
  end
end
return count
