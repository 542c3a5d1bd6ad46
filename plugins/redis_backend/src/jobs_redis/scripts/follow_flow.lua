-- Check whether a flow rests: it has ended, or goes on only if a dead letter is retried. If it does not, have its rest reported
-- through the list "end:flow:<id>". Needs common, lines, removal and flows.
--
-- ARGV     2 flow   3 microseconds for which it is reported
-- Result   1 if it rests or is unknown, else 0
-- Cost     constant

local flow = flows().flow_of(ARGV[2])
if not flow then return 1 end
local s = flow.s
if s.closed and s.w + s.a + s.backlog == 0 then return 1 end
although_full()
redis.call('DEL', base .. 'end:flow:' .. ARGV[2]) -- left by an earlier rest
redis.call('ZADD', FOLLOWERS, 'GT', now + ARGV[3], 'flow:' .. ARGV[2])
return 0
