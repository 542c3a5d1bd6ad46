-- List documents of a kind by name. Needs document.
--
-- ARGV     2 kind   3 the name after which to begin, or empty   4 most   5 bytes of data above which the list ends
-- Result   now, then {name, version, changed, until or 0, data} of each
-- Cost     O(documents that are listed, or have expired)

local kind, after, most, size = ARGV[2], ARGV[3], tonumber(ARGV[4]), 0
local found = { now }
while #found <= most do
  local from = after == '' and '-' or '(' .. after
  local names = redis.call('ZRANGE', NAMES .. kind, from, '+', 'BYLEX', 'LIMIT', 0, math.min(most, 100))
  if #names == 0 then break end
  for n = 1, #names do
    local document = read_document(kind, names[n])
    if document then
      size = size + #document[5]
      if #found > most or (#found > 1 and size > tonumber(ARGV[5])) then return found end
      found[#found + 1] = document
    end
  end
  after = names[#names]
end
return found
