-- Read the first entries of a topic's inlet, within limits. Needs common.
--
-- ARGV     2 topic   3 most entries   4 most bytes of one entry   5 most bytes in total
-- Result   {entry, ...} up to the first that is too large; if the first entry is too large, its length
-- Cost     O(entries), read in groups of 1, 2, 4 ... 16: a group is copied as a whole, before its size is known

local most, largest, left = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local found, group = {}, 1
while #found < most do
  local entries = redis.call('LRANGE', INLET .. ARGV[2], #found, math.min(#found + group, most) - 1)
  for n = 1, #entries do
    local entry = entries[n]
    if #entry > largest then return #found > 0 and found or #entry end
    left = left - #entry
    if left < 0 and #found > 0 then return found end
    found[#found + 1] = entry
  end
  if #entries < group then break end
  group = math.min(16, group * 2)
end
return found
