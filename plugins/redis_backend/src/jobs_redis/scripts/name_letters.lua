-- Give dead letters their fingerprints, unless they have one or are gone. Needs common, letters.
--
-- ARGV     2 ... topic, id, packed fingerprint {id, kind, place, message}
-- Result   how many
-- Cost     O(letters x log of their group)

local count = 0
for n = 2, #ARGV, 3 do
  local topic, id = ARGV[n], ARGV[n + 1]
  local at = redis.call('ZSCORE', GROUPS .. topic .. '\n', id)
  if at then
    uncount_letters(topic, { id })
    count_letter(topic, id, tonumber(at), cmsgpack.unpack(ARGV[n + 2]))
    count = count + 1
  end
end
return count
