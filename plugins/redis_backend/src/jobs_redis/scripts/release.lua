-- Release the jobs of a process that has died or stops, and forget it as an owner. Needs common, removal and flows.
--
-- ARGV     2 owner   3 time to live of a cancelled job in microseconds   4 1 if this counts as a crash, else 0
--          5 report for the history of charged jobs   6 how many are charged   7 ... their ids, then those of other
--          jobs that had started
-- Result   {how many were released, 1 if there are more: then call it again}; {0, 0} also for an unknown owner
-- Cost     O(jobs held), of which at most 1000 are released x log of the queue

local begun = not redis.call('ZSCORE', OWNERS, ARGV[2])
if begun and redis.call('HEXISTS', OWNER .. ARGV[2], 'release') == 0 then return { 0, 0 } end
although_full()
local started, ran = {}, {}
for n = 7, #ARGV do
  ran[ARGV[n]] = true
  if n < 7 + tonumber(ARGV[6]) then started[ARGV[n]] = true end
end
local count, more
if begun then
  count, more = release_rest(ARGV[2], tonumber(ARGV[3]))
else
  count, more = release(ARGV[2], started, ARGV[5], tonumber(ARGV[4]), tonumber(ARGV[3]), ran)
end
carry_on()
return { count, more and 1 or 0 }
