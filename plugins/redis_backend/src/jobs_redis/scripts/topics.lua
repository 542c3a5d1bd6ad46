-- Name the topics that hold jobs or are paused. Needs common and members.
--
-- Result   names
-- Cost     O(topics)

local found = redis.call('SMEMBERS', PAUSED)
for _, topic in ipairs(redis.call('SMEMBERS', TOPICS)) do
  if redis.call('EXISTS', READY .. topic, LATER .. topic, DEAD .. topic, INLET .. topic, WAITING .. topic, NEEDED .. topic) > 0
    or redis.call('HEXISTS', base .. 'lined', topic) == 1
    or tonumber(redis.call('HGET', RESERVED, topic) or 0) > 0 then
    found[#found + 1] = topic
  end
end
return found
