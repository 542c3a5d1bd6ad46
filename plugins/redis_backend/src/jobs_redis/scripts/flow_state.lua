-- Return the states of flows. Needs common, lines, removal and flows.
--
-- ARGV     2 ... ids
-- Result   {now, packed {id, state, name, total, waiting, active, done, dead, cancelled, created, ended or 0} of each known one}
-- Cost     O(ids)

local found = { whole(now) }
for n = 2, #ARGV do
  local flow = flows().flow_of(ARGV[n])
  if flow then
    local s = flow.s
    local counts = { s.w + s.s, s.a, s.d, s.x, s.g + s.k }
    found[#found + 1] = cmsgpack.pack({ flow.id, flows().state_of(s), s.name, s.total, counts, s.created, s.ended })
  end
end
return found
