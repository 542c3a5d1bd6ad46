-- Cancel a flow: from now on, no member starts. Its members are removed in slices. Needs common, lines, removal and flows.
--
-- ARGV     2 flow   3 1 if the members of the finale may still run, else 0
-- Result   1; 0 if the flow is unknown or has ended
-- Cost     constant, and at most as much as flows.lua decides in one script

local flow = flows().flow_of(ARGV[2])
if not flow or flow.s.ended > 0 then return 0 end
although_full()
flows().cancel(flow, ARGV[3] == '1')
carry_on()
return 1
