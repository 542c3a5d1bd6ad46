-- Forget that jobs have closed a limit: one value, or the name and all its values, a slice of them. Needs common, lines.
--
-- ARGV     2 cursor, 0 at first   3 value or name
-- Result   the next cursor, 0 at the end; open_limits.lua looks at the lines afterwards
-- Cost     O(slice), and those that end at the same microsecond as its last one

local its, limit = lines(), ARGV[3]
although_full()
if string.find(limit, ':', 1, true) then
  redis.call('ZREM', its.CLOSED, limit)
  return '0'
end
local function forget(closed, step)
  for n = 1, #closed, step do
    if string.match(closed[n], '^[^:]*') == limit then redis.call('ZREM', its.CLOSED, closed[n]) end
  end
end
-- The cursor is the end of a closure: places by number would move meanwhile, and ZSCAN would need a permission of its own.
local slice = redis.call('ZRANGEBYSCORE', its.CLOSED, '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, 500)
if #slice == 0 then return '0' end
local last = slice[#slice]
forget(slice, 2)
forget(redis.call('ZRANGEBYSCORE', its.CLOSED, last, last), 1)
return last
