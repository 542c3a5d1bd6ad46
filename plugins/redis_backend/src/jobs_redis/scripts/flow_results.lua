-- Return results of members that another member takes. Needs common, lines, removal and flows.
--
-- ARGV     2 flow   3 most bytes   4 ... ids
-- Result   {id, result, ...}, as many as fit together; the first one in any case
-- Cost     O(ids)

local ids = {}
for n = 4, #ARGV do ids[#ids + 1] = ARGV[n] end
return flows().results(ARGV[2], ids, tonumber(ARGV[3]), true)
