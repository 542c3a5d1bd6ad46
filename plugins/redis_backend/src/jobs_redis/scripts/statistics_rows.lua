-- List rows of statistics by time, topic and job. Needs statistics.
--
-- ARGV     2 span   3 time from which on   4 the place (time, topic, job) after which to begin, or empty   5 most
--          6 "1" if only the rows of one topic are wanted   7 this topic
-- Result   the rows
-- Cost     O(rows); of one topic, O(times that have rows)

local span, place, most = ARGV[2], '[' .. string.format(FIRST, ARGV[3]), tonumber(ARGV[5])
if ARGV[4] ~= '' then place = '(' .. ARGV[4] .. '\n~' end
if ARGV[6] ~= '1' then return redis.call('ZRANGE', STATISTICS .. span, place, '+', 'BYLEX', 'LIMIT', 0, most) end

-- In bytes, as the list is ordered: < would follow the server's locale.
local function is_less(a, b)
  for n = 1, math.min(#a, #b) do
    local x, y = string.byte(a, n), string.byte(b, n)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local found, wanted = {}, ARGV[7]
local row, at, topic = row_from(span, place)
while row and #found < most do
  if topic == wanted then
    found[#found + 1] = row
    row, at, topic = row_from(span, '(' .. row)
  else
    row, at, topic = row_from(span, '[' .. string.format(FIRST, is_less(topic, wanted) and at or at + 1) .. wanted .. '\n')
  end
end
return found
