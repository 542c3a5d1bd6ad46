-- Put back the wake tokens of a worker that was woken and cannot take work. Needs common.
--
-- ARGV     2 ... topics
-- Cost     O(topics)

for n = 2, #ARGV do
  if redis.call('EXISTS', READY .. ARGV[n]) == 1 then wake(ARGV[n]) end
end
