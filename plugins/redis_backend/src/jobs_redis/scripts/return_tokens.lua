-- Have other workers woken for the topics of one that was woken and cannot take jobs. Needs common.
--
-- ARGV     2 ... topics
-- Cost     O(topics)

for n = 2, #ARGV do
  if redis.call('EXISTS', READY .. ARGV[n]) == 1 then wake(ARGV[n]) end
end
