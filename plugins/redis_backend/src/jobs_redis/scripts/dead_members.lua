-- Return the ids of dead members of a flow, the ones that died first. Needs common, lines, removal and flows.
--
-- ARGV     2 flow   3 most
-- Result   ids
-- Cost     O(most)

return redis.call('ZRANGE', flows().LETTERS .. ARGV[2], 0, ARGV[3] - 1)
