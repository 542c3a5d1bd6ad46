-- List members of a flow in the order in which they were added, or its dead ones. Needs common, lines, removal, flows.
--
-- ARGV     2 flow   3 most   4 offset   5 1: only dead ones, the ones that died first
-- Result   packed {id, state, topic, stage, finale, stuck, reason} and its place (see parse in common.lua), in turn
-- Cost     O(log of the members + most)

local its, flow = flows(), flows().flow_of(ARGV[2])
if not flow then return {} end

local function state_of(id, job)
  if redis.call('ZSCORE', WAITING .. job.topic, id) then return 'waiting' end
  if redis.call('ZSCORE', NEEDED .. job.topic, id) or redis.call('ZSCORE', DEAD .. job.topic, id) then return 'dead' end
  local line = lines().where(id, job)
  if line then return (redis.call('HGET', LINES .. job.topic, line) or '') == '' and 'ready' or 'limited' end
  if redis.call('ZSCORE', READY .. job.topic, id) then return 'ready' end
  local due = redis.call('ZSCORE', LATER .. job.topic, id)
  if due then return tonumber(due) <= now and 'ready' or 'scheduled' end
  return 'reserved'
end

local ENDS, found = { d = 'done', x = 'dead', g = 'cancelled', k = 'cancelled' }, {}
local first, most = tonumber(ARGV[4]), tonumber(ARGV[3])
for _, id in ipairs(redis.call('ZRANGE', (ARGV[5] == '1' and its.LETTERS or its.ORDER) .. flow.id, first, first + most - 1)) do
  local node, record = its.node_of(flow, id), redis.call('HGET', JOBS, id)
  if node and record then
    local job = parse(record)
    local state = state_of(id, job)
    local reason = state == 'dead' and history_of(id)[5] or ''
    found[#found + 1] = cmsgpack.pack({ id, state, job.topic, node.stage, node.finale, node.phase == 's', reason })
    found[#found + 1] = job.place
  else
    local ended = redis.call('HGET', its.ENDED .. flow.id, id)
    if ended then
      local at, facts = cmsgpack.unpack_one(ended)
      found[#found + 1] = cmsgpack.pack({ id, ENDS[facts[1]], facts[2], facts[3], facts[4], false, facts[5] })
      found[#found + 1] = string.sub(ended, at + 1)
    end
  end
end
return found
