-- Delete a batch of a topic's done jobs that are kept, the oldest first. Needs common and done.
--
-- ARGV     2 topic   3 limit   4 microseconds that have passed since they ended, at least
-- Result   how many
-- Cost     O(limit x log of the list)

local topic, limit = ARGV[2], tonumber(ARGV[3])
local upto = whole(now - tonumber(ARGV[4]))
local deleted = 0
for _ = 1, 10 do -- entries whose time is over are not counted; housekeeping would drop them
  local ids = redis.call('ZRANGEBYSCORE', DONE .. topic, '-inf', upto, 'LIMIT', 0, limit - deleted)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    if strip_done(id, true) then deleted = deleted + 1 end
  end
  unlist_done(topic, ids)
  if deleted >= limit then break end
end
return deleted
