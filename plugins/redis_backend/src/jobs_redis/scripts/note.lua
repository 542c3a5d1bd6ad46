-- Store what reserved jobs tell. Needs common, telling.
--
-- ARGV     2 owner   3 ... of each: id, token, and the values of told_by in telling.lua. Those with a stale token are ignored
-- Result   how many were stored
-- Cost     O(lines that these jobs keep)

local stored, at = 0, 3
although_full()
while at <= #ARGV do
  local id, token = ARGV[at], ARGV[at + 1]
  if redis.call('HGET', HELD .. ARGV[2], id) == token then
    redis.call('HSET', NOTES, id, cmsgpack.pack(told_by(id, token, at + 2)))
    stored = stored + 1
  end
  at = at + 6 + tonumber(ARGV[at + 5])
end
return stored
