-- Names of keys of members of flows, and how the record of a job changes. Needs common.

local WAITING, NEEDED = base .. 'waiting:', base .. 'needed:' -- that wait for others; and dead ones for which others wait
local WAITING_TOPICS = base .. 'waiting'

-- The entry of a reserved job in CANCEL. A housekeeper of the first release, which can outlive its workers during an update, would
-- end a member without its flow's knowledge: so it is not to find the id of a member there.
local function cancel_mark(id, job) return job.flow and '>' .. id or id end

-- The record of a job with other limits; `alone` if it is in no flow any more.
local function anew(record, job, limits, alone)
  local shape, rest = string.match(record, '^(%d+ %d %d+ %d+ %a)(.*)$')
  local length, start = string.match(rest, '^ (%d+)|()')
  local fixed = #job.topic + #job.key
  start = start or 2
  local payload = string.sub(rest, start + fixed + (tonumber(length) or 0))
  local member = job.flow and not alone
  local facts = { job.tenant or '', unpack(limits) }
  if member then facts[#facts + 1] = '>' end
  local ours = cmsgpack.pack(facts)
  if member then
    ours = ours .. string.sub(job.rest, 1, -11) .. '\206' .. struct.pack('>I4', #ours) .. string.sub(job.rest, -5)
  elseif alone then
    shape = string.sub(shape, 1, -2) .. job.scope
  end
  return shape .. ' ' .. #ours .. '|' .. job.topic .. job.key .. ours .. payload
end
local function limits_in(job)
  local limits = {}
  for limit in string.gmatch(job.line or '', '[^\n]+') do
    if limit ~= '>' then limits[#limits + 1] = limit end
  end
  return limits
end
