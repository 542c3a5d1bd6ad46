-- Store what reserved jobs tell. Needs common.
--
-- ARGV     2 owner   3 ... of each: id, token, has a progress (0 or 1), progress, number of its first line, entry of the
--          timeline (or empty), number of lines, lines. Those with a stale token are ignored
-- Result   how many were stored
-- Cost     O(lines that these jobs keep)

local MOST_LINES, MOST_BYTES, MOST_RUNS = 200, 65536, 20

-- Return the newest of these lines that a job may keep.
local function newest(lines)
  local from, size = #lines + 1, 0
  while from > 1 and #lines - from + 1 < MOST_LINES and size + #lines[from - 1] <= MOST_BYTES do
    from = from - 1
    size = size + #lines[from]
  end
  local kept = {}
  for n = from, #lines do kept[#kept + 1] = lines[n] end
  return kept
end

-- What a job has told is packed {token of its latest run, number of that run's lines, progress, {line ...}, {entry ...}}.
local function tell(id, token, at)
  local packed = redis.call('HGET', NOTES, id)
  local told = packed and cmsgpack.unpack(packed) or { '', 0, '', {}, {} }
  local first, entry, count = tonumber(ARGV[at + 2]), ARGV[at + 3], tonumber(ARGV[at + 4])
  local seen = told[1] == token and told[2] or 0
  for n = math.max(0, seen - first) + 1, count do told[4][#told[4] + 1] = ARGV[at + 4 + n] end
  told[1], told[2], told[4] = token, math.max(seen, first + count), newest(told[4])
  if ARGV[at] == '1' then told[3] = ARGV[at + 1] end
  if entry ~= '' and told[5][#told[5]] ~= entry then -- a settlement that is sent again brings it again
    told[5][#told[5] + 1] = entry
    if #told[5] > MOST_RUNS then table.remove(told[5], 1) end
  end
  redis.call('HSET', NOTES, id, cmsgpack.pack(told))
end

local stored, at = 0, 3
although_full()
while at <= #ARGV do
  if redis.call('HGET', HELD .. ARGV[2], ARGV[at]) == ARGV[at + 1] then
    tell(ARGV[at], ARGV[at + 1], at + 2)
    stored = stored + 1
  end
  at = at + 7 + tonumber(ARGV[at + 6])
end
return stored
