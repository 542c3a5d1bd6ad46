-- List the ids of flows: failed ones, then open and running ones, then the others, each kind newest first.
-- Needs common, lines, removal and flows.
--
-- ARGV     2 most   3 offset
-- Result   ids
-- Cost     O(log of the flows + most)

local most, offset, found = tonumber(ARGV[2]), tonumber(ARGV[3]), {}
for rank = 0, 2 do
  local key = flows().RANKED .. rank
  local count = redis.call('ZCARD', key)
  if offset < count and #found < most then
    for _, id in ipairs(redis.call('ZREVRANGE', key, offset, offset + most - #found - 1)) do found[#found + 1] = id end
  end
  offset = math.max(0, offset - count)
end
return found
