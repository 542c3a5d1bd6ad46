-- How scheduled jobs become ready. Needs common and lines.

local LINED_AT_ONCE = 100 -- jobs with limits or keys cost more, because each may begin a line

-- Make due scheduled jobs ready, each at the position of the moment at which it was due.
local function line_up_due(topic, most)
  local due = redis.call('ZRANGEBYSCORE', LATER .. topic, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  if #due == 0 then return 0 end
  local ids, places, lined = {}, {}, 0
  for n = 1, #due, 2 do ids[#ids + 1] = due[n] end
  local records = redis.call('HMGET', JOBS, unpack(ids))
  for n = 1, #ids do
    if records[n] then
      local job = parse(records[n])
      local at = place(job.priority, tonumber(due[2 * n]))
      if not job.tenant then
        places[#places + 1], places[#places + 2] = at, ids[n]
      else
        stand(ids[n], job, at)
        lined = lined + 1
        if lined >= LINED_AT_ONCE then
          for rest = #ids, n + 1, -1 do ids[rest] = nil end
          break
        end
      end
    end
  end
  if #places > 0 then call_with('ZADD', READY .. topic, places) end
  redis.call('ZREM', LATER .. topic, unpack(ids))
  return #ids
end
