-- Have lines looked at whose limits may have got room, because definitions changed; one slice of them. Needs common, lines.
--
-- ARGV     2 cursor, 0 at first   3 ... names of the limits
-- Result   the next cursor, 0 at the end
-- Cost     O(slice)

local its = lines()
although_full()
local names = {}
for n = 3, #ARGV do names[ARGV[n]] = true end
local slice = redis.call('HSCAN', its.WAITING, ARGV[2], 'COUNT', 500)
for n = 1, #slice[2], 2 do
  if names[string.match(slice[2][n], '^[^:]*')] then its.has_room(slice[2][n]) end
end
return slice[1]
