-- Wake other workers for the topics of a worker that was woken and cannot reserve jobs. Needs common.
--
-- ARGV     2 ... topics
-- Cost     O(topics)

for n = 2, #ARGV do
  local topic = ARGV[n]
  local waiting = { READY .. topic, base .. 'filed:' .. topic, base .. 'fair:' .. topic, base .. 'opening:' .. topic }
  if redis.call('EXISTS', unpack(waiting)) > 0 then wake(topic) end
end
