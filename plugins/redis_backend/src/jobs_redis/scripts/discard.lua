-- Move waiting jobs to the dead letters. Needs common, removal and flows.
--
-- ARGV     2 reason   3 ... id, most dead letters of its topic
-- Result   how many
-- Cost     O(ids x log of the queue)

local count = 0
although_full()
for n = 3, #ARGV, 2 do
  local id = ARGV[n]
  local record = redis.call('HGET', JOBS, id)
  local job = record and parse(record)
  if job and take_out(id, job) then
    bury(id, job, history_of(id), ARGV[2], '', tonumber(ARGV[n + 1]))
    count = count + 1
  end
end
carry_on()
return count
