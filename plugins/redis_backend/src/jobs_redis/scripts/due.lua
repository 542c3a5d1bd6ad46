-- How scheduled jobs become ready. Needs common.

-- Make due scheduled jobs ready, each at the position of the moment at which it was due.
local function line_up_due(topic, most)
  local due = redis.call('ZRANGEBYSCORE', LATER .. topic, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  if #due == 0 then return 0 end
  local ids, places = {}, {}
  for n = 1, #due, 2 do ids[#ids + 1] = due[n] end
  local records = redis.call('HMGET', JOBS, unpack(ids))
  for n = 1, #ids do
    if records[n] then
      places[#places + 1] = place(parse(records[n]).priority, tonumber(due[2 * n]))
      places[#places + 1] = ids[n]
    end
  end
  call_with('ZADD', READY .. topic, places)
  redis.call('ZREM', LATER .. topic, unpack(ids))
  return #ids
end
