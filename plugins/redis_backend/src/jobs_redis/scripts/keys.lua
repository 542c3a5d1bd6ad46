-- Name the keys of a fair topic with the most jobs in line. Needs common, lines.
--
-- ARGV     2 topic   3 most
-- Result   {key, how many} of each; jobs without a key, and those from before the topic was fair, count for the empty one
-- Cost     O(log of the keys + most)

local topic, most = ARGV[2], tonumber(ARGV[3])
local deepest = redis.call('ZREVRANGE', lines().DEPTH .. topic, 0, most, 'WITHSCORES')
local others = tonumber(redis.call('ZSCORE', lines().DEPTH .. topic, '') or 0)
others = others + redis.call('ZCARD', READY .. topic) + redis.call('ZCOUNT', LATER .. topic, '-inf', now)
local found = others > 0 and { { '', others } } or {}
for n = 1, #deepest, 2 do
  if deepest[n] ~= '' then found[#found + 1] = { deepest[n], tonumber(deepest[n + 1]) } end
end
table.sort(found, function(a, b) return a[2] > b[2] end)
for n = #found, most + 1, -1 do found[n] = nil end
return found
