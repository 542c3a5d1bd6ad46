-- Return dead letters that have no fingerprint yet. Needs common, letters.
--
-- ARGV     2 limit   3 ... topics
-- Result   topic, id, reason and last error of each
-- Cost     O(limit)

local found, left = {}, tonumber(ARGV[2])
for n = 3, #ARGV do
  local ids = left > 0 and redis.call('ZRANGE', GROUPS .. ARGV[n] .. '\n', 0, left - 1) or {}
  for _, id in ipairs(ids) do
    local history = history_of(id)
    for _, fact in ipairs({ ARGV[n], id, history[5], #history > 5 and history[#history] or '' }) do found[#found + 1] = fact end
  end
  left = left - #ids
end
return found
