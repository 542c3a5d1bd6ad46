-- Add rows of statistics up, once per request. Needs statistics.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   4 ... span, time, topic, job, sums, peaks of each row
-- Result   how many rows are too old, or too far ahead
-- Writes   the first is one that a full Redis refuses, so that all of them happen, or none
-- Cost     O(rows x log of the kept ones): a hundred rows of 64 numbers take up to 50 ms

local remembered = base .. 'request:statistics/' .. ARGV[2]
local answer = redis.call('GET', remembered)
if answer then return tonumber(answer) end
redis.call('SET', remembered, '0', 'PX', ARGV[3])

local left_out = 0
for n = 4, #ARGV, 6 do
  local span, at, topic, job, sums, peaks = unpack(ARGV, n, n + 5)
  local age = now / 1000000 - at
  if age < -HOUR or age >= (job == '' and MONTH or DAY) then
    left_out = left_out + 1
  elseif job == '' and age >= DAY then
    add_row(HOUR, at - at % HOUR, topic, job, sums, peaks)
  else
    add_row(span, at, topic, job, sums, peaks)
  end
end
if left_out > 0 then redis.call('SET', remembered, whole(left_out), 'PX', ARGV[3]) end
return left_out
