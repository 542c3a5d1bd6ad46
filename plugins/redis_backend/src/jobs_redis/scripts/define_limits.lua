-- Set or reset definitions of limits. Needs common, lines.
--
-- ARGV     2 1 for overrides, else 0   3 ... limit, and "concurrency interval burst" (microseconds; - for none), or
--          empty to reset
-- Cost     O(limits)

local key = ARGV[2] == '1' and lines().OVERRIDDEN or lines().DEFINED
although_full()
for n = 3, #ARGV, 2 do
  if ARGV[n + 1] == '' then redis.call('HDEL', key, ARGV[n]) else redis.call('HSET', key, ARGV[n], ARGV[n + 1]) end
end
