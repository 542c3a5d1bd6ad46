-- Rows of statistics. Needs order.
--
-- A row is one member of the list of its span: its time in twelve digits, topic, job and numbers, in lines of text. Names have
-- no line breaks, so these members are in the order of time, topic and job. The numbers are sums and peaks, with | between
-- them, each separated by commas; zeros are left out. jobs_core.backends.statistics has the rules, and the same figures.

local STATISTICS = base .. 'statistics:'
local HOUR, DAY, MONTH = 3600, 86400, 30 * 86400
local FIRST = '%012d\n' -- begins the rows of a time

local function numbers_of(text)
  local found, count = {}, 0
  for number in string.gmatch(text .. ',', '([^,]*),') do
    count = count + 1
    found[count] = tonumber(number) or 0
  end
  return found
end

local function text_of(numbers)
  local texts = {}
  for n = 1, #numbers do texts[n] = numbers[n] == 0 and '' or whole(numbers[n]) end
  return table.concat(texts, ',')
end

local function combined(mine, others, combine)
  if mine == '' or others == '' then return mine .. others end
  local a, b = numbers_of(mine), numbers_of(others)
  for n = 1, math.max(#a, #b) do a[n] = combine(a[n] or 0, b[n] or 0) end
  return text_of(a)
end
local function sum(a, b) return a + b end

-- Return the first row from a place on, and its parts; nil if there is none.
local function row_from(span, place)
  local row = redis.call('ZRANGE', STATISTICS .. span, place, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
  if row then return row, string.match(row, '^(%d+)\n([^\n]*)\n([^\n]*)\n([^|]*)|(.*)$') end
end

local function add_row(span, at, topic, job, sums, peaks)
  local place = string.format(FIRST, at) .. topic .. '\n' .. job .. '\n'
  local row, _, _, _, its_sums, its_peaks = row_from(span, '[' .. place)
  if row and string.sub(row, 1, #place) == place then
    redis.call('ZREM', STATISTICS .. span, row)
    sums, peaks = combined(sums, its_sums, sum), combined(peaks, its_peaks, math.max)
  end
  redis.call('ZADD', STATISTICS .. span, 0, place .. sums .. '|' .. peaks)
end

-- Remove up to `most` rows of a span that are too old; return them.
local function take_old(span, kept, most)
  local last = '(' .. string.format(FIRST, math.floor(now / 1000000) - kept + 1)
  local rows = redis.call('ZRANGE', STATISTICS .. span, '-', last, 'BYLEX', 'LIMIT', 0, most)
  if #rows > 0 then redis.call('ZREM', STATISTICS .. span, unpack(rows)) end
  return rows
end

-- Fold and drop old rows, up to `most` of each kind; return whether there may be more.
local function keep_statistics(most)
  local minutes = take_old(60, DAY, most)
  for _, row in ipairs(minutes) do
    local at, topic, job, sums, peaks = string.match(row, '^(%d+)\n([^\n]*)\n([^\n]*)\n([^|]*)|(.*)$')
    add_row(HOUR, at - at % HOUR, topic, job, sums, peaks)
  end
  local jobs, hours = take_old(300, DAY, most), take_old(HOUR, MONTH, most)
  return math.max(#minutes, #jobs, #hours) >= most
end
