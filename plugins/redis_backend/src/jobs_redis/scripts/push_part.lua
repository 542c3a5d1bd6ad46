-- Store a part of a flow, once per request; with the last part the flow begins. Needs common, removal, queue and flows.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   4 time to live of a cancelled job in microseconds
--          5 number of messages   6 flow   7 number of the part   8 1 if it is the last one, else 0   9 name   10 microseconds
--          for which the flow is kept after its end   11 microseconds without a part after which an open flow is dropped
--          then four values a message: see add in queue.lua
-- Result   {}; {conflict, id, holder, ...} if members are refused; {lost, why}; {refused, why}. Then nothing is stored.
-- Writes   the first is one that a full Redis refuses, so that all of them happen, or none
-- Cost     O(messages x log of the queue), and what follows from them, at most as much as flows.lua decides in one script

local its, remembered = flows(), base .. 'request:' .. ARGV[2]
local answer = redis.call('GET', remembered)
if answer then return answer == '' and {} or cmsgpack.unpack(answer) end

local count, cancelled_ttl, id = tonumber(ARGV[5]), tonumber(ARGV[4]), ARGV[6]
local number, last, first = tonumber(ARGV[7]), ARGV[8] == '1', 12
local flow = its.flow_of(id)
if not flow and number > 0 then return { 'lost', 'is unknown: it was dropped, because its parts came too slowly' } end
if flow and flow.s.lost ~= '' then return { 'lost', flow.s.lost } end
if flow and (flow.s.closed or number < flow.s.parts) then return {} end
local due = flow and flow.s.parts or 0
if number > due then
  return { 'refused', 'part ' .. number .. ' of flow ' .. id .. ' came before part ' .. due .. ': push them in order' }
end

-- The id of the job that holds a unique key and is not to be replaced.
local function holder_of(key, replaces)
  local till, holder = string.match(redis.call('HGET', UNIQUE, key) or '', '^(%d+)[ ?](.*)$')
  if not till or (till ~= '0' and tonumber(till) <= now) then return nil end
  local record = replaces and redis.call('HGET', JOBS, holder)
  local job = record and parse(record)
  if not job or job.flow then return holder end
  if job.tenant and lines().where(holder, job) then return nil end
  if redis.call('ZSCORE', READY .. job.topic, holder) or redis.call('ZSCORE', LATER .. job.topic, holder) then return nil end
  return holder
end

local ids, members, jobs, records, conflicts, keys = {}, {}, {}, {}, {}, {}
for n = 0, count - 1 do ids[n + 1] = ARGV[first + 4 * n] end
local known = count > 0 and call_with('HMGET', JOBS, ids) or {}
for n = 1, count do
  local at, member_id = first + 4 * (n - 1), ids[n]
  local extra, holder = ARGV[at + 3], nil
  records[n] = whole(now + n - 1) .. ' ' .. ARGV[at + 2]
  jobs[n] = parse(records[n])
  members[n] = its.member_of(member_id, jobs[n])
  if known[n] or (string.sub(extra, -2) == ' 1' and redis.call('EXISTS', base .. 'ended:' .. member_id) == 1) then
    holder = member_id
  elseif jobs[n].key ~= '' then
    holder = keys[jobs[n].key] or holder_of(jobs[n].key, string.match(extra, '^%d+ (%d)') == '1')
    keys[jobs[n].key] = keys[jobs[n].key] or member_id
  end
  if holder then
    conflicts[#conflicts + 1], conflicts[#conflicts + 2] = member_id, holder
    redis.call('HINCRBY', REFUSED, jobs[n].topic, 1)
  end
end
if #conflicts > 0 then
  table.insert(conflicts, 1, 'conflict')
  redis.call('SET', remembered, cmsgpack.pack(conflicts), 'PX', ARGV[3])
  return conflicts
end
local planned = flow
if not planned then
  local state = { name = ARGV[9], ttl = tonumber(ARGV[10]), open_for = tonumber(ARGV[11]), created = now, failed = now, ended = 0 }
  state.parts, state.total, state.step, state.opening, state.backlog, state.lost = 0, 0, 0, 0, 0, ''
  state.w, state.s, state.a, state.d, state.x, state.g, state.k = 0, 0, 0, 0, 0, 0, 0
  state.closed, state.cancelled, state.keeps, state.cancelled_ttl = false, false, false, cancelled_ttl
  planned = its.new(id, state, true)
end
local ok, why = its.plan(planned, members)
if not ok then return { 'refused', why } end

redis.call('SET', remembered, '', 'PX', ARGV[3])
lines().need_schema(3)
for n = 1, count do
  local job, extra = jobs[n], ARGV[first + 4 * (n - 1) + 3]
  if job.key ~= '' then
    local replaces, timed = string.match(extra, '^%d+ (%d) (%d+)')
    timed = tonumber(timed)
    take_key(ids[n], job.key, timed, timed > 0 and job.scope == 'q', replaces == '1', false, {}, cancelled_ttl)
  end
  redis.call('HINCRBY', PUSHED, job.topic, 1)
  its.store_waiting(ids[n], records[n], job, now + n - 1)
  its.add_member(planned, members[n], job)
end
planned.s.parts = number + 1
if last then
  its.close(planned)
else
  redis.call('ZADD', its.OPEN, now + planned.s.open_for, id)
end
its.touch(planned)
if count > 300 then its.limit(math.max(100, 1000 - count)) end
carry_on()
return {}
