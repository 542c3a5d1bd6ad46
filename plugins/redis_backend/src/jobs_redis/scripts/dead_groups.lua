-- Count dead letters by what went wrong. Needs common, letters.
--
-- ARGV     2 most groups of a topic   3 ... topics
-- Result   for each group, the largest of each topic first: topic, packed {id, kind, place, message}, letters, time of the first and
--          the last death in microseconds, id of the newest letter
-- Cost     O(groups)

local found = {}
for n = 3, #ARGV do
  local topic, groups = ARGV[n], {}
  local causes = redis.call('HGETALL', CAUSES .. topic)
  for at = 1, #causes, 2 do
    groups[#groups + 1] = { causes[at], causes[at + 1], redis.call('ZCARD', GROUPS .. topic .. '\n' .. causes[at]) }
  end
  table.sort(groups, function(a, b) return a[3] > b[3] or (a[3] == b[3] and a[1] < b[1]) end)
  for rank = 1, math.min(#groups, tonumber(ARGV[2])) do
    local group, cause, letters = unpack(groups[rank])
    local first = redis.call('ZRANGE', GROUPS .. topic .. '\n' .. group, 0, 0, 'WITHSCORES')
    local last = redis.call('ZRANGE', GROUPS .. topic .. '\n' .. group, -1, -1, 'WITHSCORES')
    if letters > 0 then
      for _, fact in ipairs({ topic, cause, letters, whole(first[2]), whole(last[2]), last[1] }) do found[#found + 1] = fact end
    end
  end
end
return found
