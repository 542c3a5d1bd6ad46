-- List the states of limits, those with the most waiting jobs first. Needs common, lines.
--
-- ARGV     2 most   3 ... names, or none for all
-- Result   {limit, used, waiting, definition or empty, overridden (0 or 1), microseconds until a rate or closure opens or -1,
--          microseconds for which it is closed} of each
-- Cost     O(values in use), of which about 10,000 of each kind are looked at

local its = lines()
local names, any = {}, #ARGV > 2
for n = 3, #ARGV do names[ARGV[n]] = true end
local seen, found = {}, {}
local function see(limit)
  local name = string.match(limit, '^[^:]*')
  if seen[limit] then return end
  if any then
    if not names[name] then return end
  elseif string.find(name, '/', 1, true) then
    return -- of keys, which are listed only by name
  end
  seen[limit] = true
  local rule = its.definition(limit)
  local closed = math.max(0, tonumber(redis.call('ZSCORE', its.CLOSED, limit) or 0) - now)
  local opens = closed
  if rule and rule.interval then
    opens = math.max(opens, math.ceil(its.tat_under(rule, limit) - (rule.burst - 1) * rule.interval) - now)
  end
  found[#found + 1] = {
    limit, tonumber(redis.call('HGET', its.USED, limit) or 0), tonumber(redis.call('HGET', its.WAITING, limit) or 0),
    rule and rule.text or '', rule and rule.overridden and 1 or 0, opens > 0 and opens or -1, closed,
  }
end
for _, hash in ipairs({ its.DEFINED, its.OVERRIDDEN }) do
  local texts = redis.call('HGETALL', hash)
  for n = 1, #texts, 2 do see(texts[n]) end
end
for _, hash in ipairs({ its.WAITING, its.USED }) do
  local values = redis.call('HSCAN', hash, 0, 'COUNT', 10000)[2]
  for n = 1, #values, 2 do see(values[n]) end
end
for _, times in ipairs({ its.TAT, its.CLOSED }) do
  for _, limit in ipairs(redis.call('ZRANGEBYSCORE', times, '(' .. whole(now), '+inf', 'LIMIT', 0, 10000)) do see(limit) end
end
table.sort(found, function(a, b) return a[3] > b[3] or (a[3] == b[3] and a[1] < b[1]) end)
for n = #found, tonumber(ARGV[2]) + 1, -1 do found[n] = nil end
return found
