-- Return the ids of dead members of a flow that can be retried, the first to die first. Needs common, lines, removal and flows.
--
-- ARGV     2 flow   3 most
-- Result   ids
-- Cost     O(most)

return redis.call('ZRANGEBYSCORE', flows().LETTERS .. ARGV[2], '-inf', '(+inf', 'LIMIT', 0, ARGV[3])
