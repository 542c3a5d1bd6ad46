-- What jobs tell. Needs common.
--
-- It is packed {token of the job's latest run, number of that run's lines, progress, {line ...}, {entry of its timeline ...}}.

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

-- Return what a job has told, with the values from `at` on: has a progress (0 or 1), progress, number of the run's first line,
-- number of lines, lines.
local function told_by(id, token, at)
  local packed = redis.call('HGET', NOTES, id)
  local told = packed and cmsgpack.unpack(packed) or { '', 0, '', {}, {} }
  local first, count = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local seen = told[1] == token and told[2] or 0
  for n = math.max(0, seen - first) + 1, count do told[4][#told[4] + 1] = ARGV[at + 3 + n] end
  told[1], told[2], told[4] = token, math.max(seen, first + count), newest(told[4])
  if ARGV[at] == '1' then told[3] = ARGV[at + 1] end
  return told
end

local function add_run(told, entry)
  if entry == '' then return end
  told[5][#told[5] + 1] = entry
  if #told[5] > MOST_RUNS then table.remove(told[5], 1) end
end
