-- Find one job. Needs common, describe.
--
-- ARGV     2 id
-- Result   {now, description}: see describe.lua
-- Cost     O(owners) for a reserved job, else constant

with_lines = true
return { whole(now), find(ARGV[2]) }
