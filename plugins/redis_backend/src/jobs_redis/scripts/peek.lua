-- Read the head of a topic's inlet, at most so many entries and bytes. Needs common.
--
-- ARGV     2 topic   3 most entries   4 most bytes of an entry   5 most bytes of all
-- Result   {entry, ...} up to the first that is too large; if that is the very first, its length
-- Cost     O(entries): one by one, for nobody knows how large the next one is

local found, bytes = {}, 0
for n = 0, ARGV[3] - 1 do
  local entry = redis.call('LRANGE', INLET .. ARGV[2], n, n)[1]
  if not entry then break end
  if #entry > tonumber(ARGV[4]) then
    if n == 0 then return #entry end
    break
  end
  bytes = bytes + #entry
  if n > 0 and bytes > tonumber(ARGV[5]) then break end
  found[#found + 1] = entry
end
return found
