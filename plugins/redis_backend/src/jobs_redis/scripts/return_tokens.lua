-- Wake other workers for the topics of a worker that was woken and cannot reserve jobs. Needs common.
--
-- ARGV     2 ... topics
-- Cost     O(topics)

for n = 2, #ARGV do
  if redis.call('EXISTS', READY .. ARGV[n], base .. 'filed:' .. ARGV[n], base .. 'fair:' .. ARGV[n], base .. 'opening:' .. ARGV[n]) > 0 then wake(ARGV[n]) end
end
