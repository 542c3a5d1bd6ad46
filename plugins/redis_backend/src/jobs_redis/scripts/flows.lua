-- Flows: which members wait for what, and what follows from each end. Needs common, lines and removal.
--
-- The rules are those of jobs_core.backends.flows; the names are those of the memory backend's engine. A member that has not
-- ended for good is a node. Its phase is w(aiting), s(tuck behind a dead one), a(ctive: ready, limited, scheduled or reserved),
-- x (dead), and at last d(one), g(one) or k (skipped). What waits for a node or a group (a stage, or the body: the group
-- without a name) stands in two lists of it: e, for which any end will do, and n, which need it done. A list is kept in
-- chunks; its positions only grow, so that queued work can name a range of them.
--
-- All changes of a script are gathered, and written by `flush`; every script that ends jobs calls `carry_on` at its end.

local its_flows
flows = function()
  if its_flows then return its_flows end
  local STATES, PARTS, ORDER, ENDED = base .. 'flow', base .. 'flow:', base .. 'flow-order:', base .. 'flow-ended:'
  local RESULTS, LETTERS, WORK = base .. 'flow-results:', base .. 'flow-dead:', base .. 'flow-work:'
  local EARLY, RANKED = base .. 'flow-early:', base .. 'flows-ranked:'
  local WORKING, CANCELLED = base .. 'flows-working', base .. 'flows-cancelled'
  local OPEN, KEPT, FAILED = base .. 'flows-open', base .. 'flows-kept', base .. 'flows-failed'
  local MOST_LISTED, MOST_AFTER, LENGTH = 1000, 1000, 100

  local BAD, FINAL, FAILURES = { s = true, x = true }, { d = true, g = true, k = true }, { s = true, x = true, g = true }
  local IS_CANCELLED = 'its flow was cancelled'
  local REFUSED = 'r' -- instead of when it runs: an addition that has no place in its flow, so that it never can
  local REASONS = {
    g = 'a member that it waited for was cancelled or deleted', k = 'skipped: a member that it waited for was skipped',
    unneeded = 'skipped: nothing that it waited for had failed',
  }
  local NODE = { 'phase', 'left', 'stuck', 'bad', 'lost', 'order', 'finale', 'when', 'stage', 'takes', 'nf', 'nt', 'ef', 'et' }
  local GROUP = { 'finale', 'left', 'bad', 'gone', 'reported', 'seal', 'nf', 'nt', 'ef', 'et' }

  local budget = 1000 -- what this script may still decide; a start or a removal costs more than a look

  -- == What is kept: one hash a flow, read on demand and written by flush ==

  local loaded, met, active, next_active = {}, {}, {}, 1

  local function new(id, state, fresh)
    local flow = { id = id, s = state, new = fresh, parts = {}, dirty = {}, work = {}, first = 1, last = 0, ends = {}, order = {} }
    loaded[id] = flow
    met[#met + 1] = flow
    return flow
  end

  local function flow_of(id)
    local flow = loaded[id]
    if flow == nil then
      local packed = redis.call('HGET', STATES, id)
      flow = packed and new(id, cmsgpack.unpack(packed)) or false
      loaded[id] = flow
    end
    return flow
  end

  local function unpacked(field, text)
    local kind = string.sub(field, 1, 1)
    if kind == 't' then return tonumber(text) end
    local values = cmsgpack.unpack(text)
    if kind == 'd' then return values end
    local part = { name = field }
    for n, name in ipairs(kind == 'n' and NODE or GROUP) do part[name] = values[n] end
    return part
  end

  local function packed(field, part)
    local kind = string.sub(field, 1, 1)
    if kind == 't' then return part end
    if kind == 'd' then return cmsgpack.pack(part) end
    local values = {}
    for n, name in ipairs(kind == 'n' and NODE or GROUP) do values[n] = part[name] end
    return cmsgpack.pack(values)
  end

  -- A part of a flow by its field: n and the id of a node, g and the name of a group, t and the id of a member whose result is
  -- still taken so many times, d and the name and number of a chunk. False if there is none.
  local function part(flow, field)
    local found = flow.parts[field]
    if found == nil then
      local text = not flow.new and redis.call('HGET', PARTS .. flow.id, field)
      found = text and unpacked(field, text) or false
      flow.parts[field] = found
    end
    return found
  end

  local function put(flow, field, value)
    flow.parts[field] = value
    flow.dirty[field] = true
  end

  local function fetch(flow, ids)
    if flow.new then return end
    local fields = {}
    for _, id in ipairs(ids) do
      if flow.parts['n' .. id] == nil then fields[#fields + 1] = 'n' .. id end
    end
    if #fields == 0 then return end
    local texts = call_with('HMGET', PARTS .. flow.id, fields)
    for n, field in ipairs(fields) do
      if flow.parts[field] == nil then flow.parts[field] = texts[n] and unpacked(field, texts[n]) or false end
    end
  end

  local function node_of(flow, id) return part(flow, 'n' .. id) end
  local function id_of(node) return string.sub(node.name, 2) end

  local function group_of(flow, name, finale)
    local field = 'g' .. name
    local group = part(flow, field)
    if not group and (name == '' or finale ~= nil) then
      group = { name = field, finale = finale or false, left = 0, bad = 0, gone = 0, reported = false, seal = false }
      group.nf, group.nt, group.ef, group.et = 0, 0, 0, 0
      put(flow, field, group)
    end
    return group
  end

  local function changed(flow, one) flow.dirty[one.name] = true end

  local function chunk_of(list, at) return 'd' .. list .. '\n' .. whole(math.floor(at / LENGTH)) end
  local function after_chunk(at) return math.ceil(at / LENGTH) * LENGTH end

  local function append(flow, list, at, id)
    local field = chunk_of(list, at)
    local ids = at % LENGTH > 0 and part(flow, field) or {}
    ids[at % LENGTH + 1] = id
    put(flow, field, ids)
  end

  -- == Jobs: records, and members that become ready or wait ==

  local jobs, records, waits, leaves, starts, touched, started = {}, {}, {}, {}, {}, {}, 0

  local function job_of(id)
    local job = jobs[id]
    if not job then
      local record = redis.call('HGET', JOBS, id)
      job = record and parse(record)
    end
    return job
  end

  local function store_waiting(id, record, job, at)
    jobs[id] = job
    records[#records + 1], records[#records + 2] = id, record
    waits[job.topic] = waits[job.topic] or {}
    waits[job.topic][id] = place(job.priority, at)
  end

  local function start(id, job)
    if waits[job.topic] and waits[job.topic][id] then
      waits[job.topic][id] = nil
    else
      leaves[job.topic] = leaves[job.topic] or {}
      table.insert(leaves[job.topic], id)
    end
    local delay, line = job.delay, lines().line_for(job)
    if delay > 0 and job.key ~= '' and job.scope == 'q' then -- if jobs replace each other, not beyond the limit of the key
      local till, holder = string.match(redis.call('HGET', UNIQUE, job.key) or '', '^(%d+)[ ?](.*)$')
      if holder == id and tonumber(till) > 0 then delay = math.min(delay, tonumber(till) - now) end
    end
    if delay > 0 then
      redis.call('ZADD', LATER .. job.topic, now + delay, id)
    else
      starts[job.topic] = starts[job.topic] or {}
      local places = starts[job.topic][line] or {}
      places[#places + 1], places[#places + 2] = place(job.priority, now + started), id
      starts[job.topic][line] = places
      started = started + 1
    end
    touched[job.topic] = touched[job.topic] or delay < 5000000 -- see SOON in queue.lua
  end

  local function flush_jobs()
    if #records > 0 then call_with('HSET', JOBS, records) end
    for topic, ids in pairs(waits) do
      local places = {}
      for id, at in pairs(ids) do places[#places + 1], places[#places + 2] = at, id end
      if #places > 0 then
        call_with('ZADD', WAITING .. topic, places)
        redis.call('SADD', WAITING_TOPICS, topic)
        touched[topic] = touched[topic] or false
      end
    end
    for topic, ids in pairs(leaves) do call_with('ZREM', WAITING .. topic, ids) end
    for topic, own_lines in pairs(starts) do
      for line, places in pairs(own_lines) do
        call_with('ZADD', lines().LINE .. topic .. '\n' .. line, places)
        lines().changed(topic, line, #places / 2)
      end
    end
    for topic, soon in pairs(touched) do
      redis.call('SADD', TOPICS, topic)
      if soon then wake(topic) end
    end
    records, waits, leaves, starts, touched = {}, {}, {}, {}, {}
  end

  -- == Ends ==

  local function queue(flow, item)
    flow.last = flow.last + 1
    flow.work[flow.last] = item
  end

  local function touch(flow)
    flow.touched = true
    if not flow.active then
      flow.active = true
      active[#active + 1] = flow
    end
  end

  -- Queue what follows from the end of a node or group; w takes a death back.
  local function follow(flow, target, phase)
    if phase ~= 'w' and target.et > target.ef then
      queue(flow, { 'c', 'e' .. target.name, target.ef, target.et, true, phase })
      target.ef = after_chunk(target.et)
      target.et = target.ef
    end
    if target.nt > target.nf then queue(flow, { 'c', 'n' .. target.name, target.nf, target.nt, false, phase }) end
    if FINAL[phase] then
      target.nf = after_chunk(target.nt)
      target.nt = target.nf
    end
  end

  local function judge(flow, group)
    local reported = false
    if group.left == 0 then
      if not flow.s.closed then
        redis.call('RPUSH', EARLY .. flow.id, group.name)
        return
      end
      reported = group.gone > 0 and 'g' or group.bad > 0 and 'x' or 'd'
    end
    local before = group.reported
    if reported == before then return end
    group.reported = reported
    changed(flow, group)
    if BAD[before] and not BAD[reported] then follow(flow, group, 'w') end
    if reported then follow(flow, group, reported) end
  end

  local function groups_of(flow, node)
    local groups = {}
    if node.stage ~= '' then groups[1] = group_of(flow, node.stage, node.finale) end
    if not node.finale then groups[#groups + 1] = group_of(flow, '') end
    return groups
  end

  local function take_no_longer(flow, id)
    local left = (part(flow, 't' .. id) or 0) - 1
    put(flow, 't' .. id, left > 0 and left or false)
    if left <= 0 then redis.call('HDEL', RESULTS .. flow.id, id) end
  end

  local function forget(flow, node, job, reason, result)
    local id = id_of(node)
    put(flow, node.name, false)
    if not flow.s.closed then redis.call('HSET', PARTS .. flow.id, 'x' .. id, 1) end
    if node.phase == 'd' and result and part(flow, 't' .. id) then redis.call('HSET', RESULTS .. flow.id, id, result) end
    if node.takes and job then
      for _, taken in ipairs(cmsgpack.unpack(job.place)[4]) do take_no_longer(flow, taken) end
    end
    if flow.s.total > MOST_LISTED then
      redis.call('ZREM', ORDER .. flow.id, id)
    elseif job then
      flow.ends[#flow.ends + 1] = id
      flow.ends[#flow.ends + 1] = cmsgpack.pack({ node.phase, job.topic, node.stage, node.finale, reason or '' }) .. job.place
    end
  end

  -- The score of a dead letter: when it died; that of a refused addition comes after all that can be retried.
  local function died(node) return node.when == REFUSED and '+inf' or now end

  -- Move a member to a phase, and queue what follows for the members that are after it.
  local function enter(flow, node, phase, job, reason, result)
    local s, before = flow.s, node.phase
    node.phase = phase
    changed(flow, node)
    s[before] = s[before] - 1
    s[phase] = s[phase] + 1
    if before == 'x' then redis.call('ZREM', LETTERS .. flow.id, id_of(node)) end
    if phase == 'x' then
      if s.cancelled then phase = 'g' else redis.call('ZADD', LETTERS .. flow.id, died(node), id_of(node)) end -- g: no retry
    end
    local ended, had_ended = phase ~= 'w' and phase ~= 'a', BAD[before]
    local groups = groups_of(flow, node)
    for _, group in ipairs(groups) do
      group.left = group.left + (had_ended and 1 or 0) - (ended and 1 or 0)
      group.bad = group.bad + (BAD[phase] and 1 or 0) - (had_ended and 1 or 0)
      if phase == 'g' then group.gone = group.gone + 1 end
      changed(flow, group)
    end
    if FINAL[phase] then forget(flow, node, job, reason, result) end
    if (ended or had_ended) and not (had_ended and BAD[phase]) then follow(flow, node, ended and phase or 'w') end
    for _, group in ipairs(groups) do judge(flow, group) end
  end

  local function is_barred(flow, node) return flow.s.cancelled and not (flow.s.keeps and node.finale) end

  -- Cancel a member that is in no list any more.
  local function remove(flow, node, phase, reason, job)
    local id = id_of(node)
    enter(flow, node, phase, job, reason)
    if job then
      job.told = true -- its flow knows
      finish(id, job, 'cancelled', flow.s.cancelled_ttl, nil, reason)
      jobs[id] = nil
    end
    budget = budget - 2
  end

  local function take_waiting(id, job)
    if job and waits[job.topic] and waits[job.topic][id] then flush_jobs() end
    if job then redis.call('ZREM', WAITING .. job.topic, id) end
  end

  -- Start a waiting member, or remove it, if all that decides its fate is known.
  local function look(flow, node)
    local barred, lost = is_barred(flow, node), node.lost
    if barred or lost or (node.left == 0 and node.when == 'f' and not node.bad) then
      local job = job_of(id_of(node))
      take_waiting(id_of(node), job)
      if barred then return remove(flow, node, 'g', IS_CANCELLED, job) end
      if lost then return remove(flow, node, lost, REASONS[lost], job) end
      return remove(flow, node, 'k', REASONS.unneeded, job)
    end
    if node.left == 0 then
      local id = id_of(node)
      local job = job_of(id)
      if not job then return enter(flow, node, 'g') end -- its record was deleted by hand
      enter(flow, node, 'a')
      start(id, job)
      budget = budget - 1
      return
    end
    local phase = node.stuck > 0 and 's' or 'w'
    if phase ~= node.phase then enter(flow, node, phase) end
  end

  -- A target of a member has come to an end.
  local function decide(flow, id, any_end, phase)
    local node = node_of(flow, id)
    budget = budget - 1
    if not node or node.phase == 'a' then return end
    if phase == 'd' or any_end then
      node.left = node.left - 1
      node.bad = node.bad or FAILURES[phase] or false
    elseif BAD[phase] then
      node.stuck = node.stuck + 1
    elseif phase == 'w' then
      node.stuck = node.stuck - 1
    else
      node.lost = node.lost or phase
    end
    changed(flow, node)
    if node.phase ~= 'x' then look(flow, node) end -- a dead one is looked at when it is retried
  end

  -- Treat a dead letter like one that is in no flow.
  local function release_letter(id, job, most)
    if redis.call('ZREM', NEEDED .. job.topic, id) == 0 then return end
    redis.call('ZADD', DEAD .. job.topic, now, id)
    if most then trim(job.topic, most) end
  end

  local heard = 0
  -- Tell flows of the members that have ended in this script.
  local function hear()
    while heard < #ended_members do
      heard = heard + 1
      local id, job, state, reason, result, most = unpack(ended_members[heard], 1, 6)
      local flow = flow_of(job.flow)
      local node = flow and node_of(flow, id)
      local phase = state == 'done' and 'd' or state == 'dead' and 'x' or 'g'
      if node and node.phase ~= phase then
        enter(flow, node, phase, job, reason, result)
        if phase == 'x' then
          flow.s.failed = now
          if not flow.s.cancelled then redis.call('ZADD', FAILED, now, flow.id) end
        end
        touch(flow)
      end
      if phase == 'x' and (not flow or flow.s.cancelled) then release_letter(id, job, most) end
    end
  end

  -- == Steps ==

  local function dismiss(flow, node)
    local id = id_of(node)
    local job = job_of(id)
    if node.phase == 'x' then
      enter(flow, node, 'x', job, job and history_of(id)[5])
      if job then release_letter(id, job) end
      budget = budget - 2
    elseif is_barred(flow, node) and (not job or take_out(id, job)) then
      remove(flow, node, 'g', IS_CANCELLED, job)
    end
  end

  -- Look at some of the members of a cancelled flow; return true after the last one.
  local function sweep(flow, item)
    flush_jobs()
    local found = redis.call('HSCAN', PARTS .. flow.id, item[2], 'MATCH', 'n*', 'COUNT', 50)
    local ids = {}
    for n = 1, #found[2], 2 do ids[#ids + 1] = string.sub(found[2][n], 2) end
    fetch(flow, ids)
    for _, id in ipairs(ids) do
      local node = node_of(flow, id)
      if node then dismiss(flow, node) end
      budget = budget - 0.5
    end
    item[2] = found[1]
    budget = budget - 1 -- also if nothing was found in a sparse part of the hash
    return found[1] == '0'
  end

  -- Decide for the members in a range of a list; return true after the last one.
  local function decide_range(flow, item)
    local list, upto, any_end, phase = item[2], item[4], item[5], item[6]
    while item[3] < upto and budget > 0 do
      local field = chunk_of(list, item[3])
      local ids, first = part(flow, field) or {}, item[3] % LENGTH + 1
      local last = math.min(LENGTH, upto - item[3] + first - 1)
      fetch(flow, ids)
      while first <= last and budget > 0 do
        if ids[first] then decide(flow, ids[first], any_end, phase) end
        first, item[3] = first + 1, item[3] + 1
      end
      if first > last and (any_end or FINAL[phase]) then put(flow, field, false) end
    end
    return item[3] >= upto
  end

  local function shift(list)
    local first = redis.call('LRANGE', list, 0, 0)[1]
    if first then redis.call('LTRIM', list, 1, -1) end
    return first
  end

  local function carry_out(flow, item)
    local kind = item[1]
    if kind == 'c' then return decide_range(flow, item) end
    if kind == 's' then return sweep(flow, item) end
    budget = budget - 1
    if kind == 'i' then
      decide(flow, item[2], item[3], item[4])
    elseif kind == 'j' then
      judge(flow, group_of(flow, item[2]))
    else -- groups whose members had all ended before the close
      local name = shift(EARLY .. flow.id)
      local group = name and part(flow, name)
      if group then judge(flow, group) end
      return not name
    end
    return true
  end

  local function has_work(flow) return flow.s.backlog > 0 or flow.first <= flow.last end

  local function advance(flow)
    local s = flow.s
    while budget > 0 and has_work(flow) do
      if s.backlog > 0 then
        local packed_item = not s.head and shift(WORK .. flow.id)
        s.head = packed_item and cmsgpack.unpack(packed_item) or s.head or { 'j', '' } -- its list was deleted by hand
        if carry_out(flow, s.head) then s.backlog, s.head = s.backlog - 1, nil end
      elseif carry_out(flow, flow.work[flow.first]) then
        flow.work[flow.first] = nil
        flow.first = flow.first + 1
      end
    end
  end

  local function is_over(flow)
    local s = flow.s
    return s.closed and s.w + s.s + s.a == 0 and (s.x == 0 or s.cancelled) and not has_work(flow)
  end

  -- Tell flows of ends, and decide what follows, as far as the budget of the script lasts.
  local function proceed()
    hear()
    while next_active <= #active do
      local flow = active[next_active]
      next_active, flow.active = next_active + 1, false
      advance(flow)
      hear()
      if flow.s.ended == 0 and is_over(flow) then
        flow.s.ended = now
        redis.call('ZADD', KEPT, now + flow.s.ttl, flow.id)
        redis.call('SREM', CANCELLED, flow.id)
      end
    end
  end

  -- Go on with flows in which steps were left over by other scripts.
  local function proceed_others()
    while budget > 0 do
      local id = redis.call('ZRANGE', WORKING, 0, 0)[1]
      if not id then return end
      local flow = flow_of(id)
      redis.call('ZREM', WORKING, id)
      if flow then
        touch(flow)
        proceed()
      end
    end
  end

  local function state_of(s)
    if s.cancelled then return 'cancelled' end
    if not s.closed then return 'open' end
    return s.x > 0 and 'failed' or s.ended > 0 and 'done' or 'running'
  end

  local function flush_flow(flow)
    local s, key = flow.s, PARTS .. flow.id
    local values, gone = {}, {}
    for field in pairs(flow.dirty) do
      local value = flow.parts[field]
      if value then
        values[#values + 1], values[#values + 2] = field, packed(field, value)
      elseif not flow.new then
        gone[#gone + 1] = field
      end
    end
    if #values > 0 then call_with('HSET', key, values) end
    if #gone > 0 then call_with('HDEL', key, gone) end
    if #flow.order > 0 then call_with('ZADD', ORDER .. flow.id, flow.order) end
    if #flow.ends > 0 then call_with('HSET', ENDED .. flow.id, flow.ends) end
    for n = flow.first, flow.last do redis.call('RPUSH', WORK .. flow.id, cmsgpack.pack(flow.work[n])) end
    s.backlog = s.backlog + flow.last - flow.first + 1
    flow.dirty, flow.work, flow.first, flow.last, flow.new = {}, {}, 1, 0, false
    flow.order, flow.ends, flow.touched = {}, {}, false
    if s.backlog > 0 then
      redis.call('ZADD', WORKING, now, flow.id)
      if s.topic then wake(s.topic) end -- for a worker that goes on
    elseif s.working then
      redis.call('ZREM', WORKING, flow.id)
    end
    s.working = s.backlog > 0
    if s.closed and s.w + s.a + s.backlog == 0 then tell_followers('flow:' .. flow.id) end
    local state = state_of(s)
    local rank = state == 'failed' and 0 or (state == 'open' or state == 'running') and 1 or 2
    if rank ~= s.rank then
      if s.rank then redis.call('ZREM', RANKED .. s.rank, flow.id) end
      redis.call('ZADD', RANKED .. rank, s.created, flow.id)
      s.rank = rank
    end
    redis.call('HSET', STATES, flow.id, cmsgpack.pack(s))
  end

  local function flush()
    flush_jobs()
    for _, flow in ipairs(met) do
      if flow.touched then flush_flow(flow) end
    end
  end

  -- == Members ==

  local function refusal(flow, id, why) return id .. ' cannot be a member of flow ' .. flow.id .. ': ' .. why end
  local function refuse(flow, id, why) error({ refused = refusal(flow, id, why) }) end

  local function ended_early(flow, id)
    return not flow.s.closed and not flow.new and redis.call('HEXISTS', PARTS .. flow.id, 'x' .. id) == 1
  end

  -- {id, stage, after {target, kind, any end}, when, takes, finale} of a job; stage is false for that of the member that adds it.
  local function member_of(id, job)
    local stage, after, when, inputs = unpack(cmsgpack.unpack(job.place), 1, 4)
    return { id = id, stage = stage, after = after, when = when, inputs = inputs, finale = false }
  end

  -- Whether a target is in the finale.
  local function check_target(flow, member, target, kind, planned, stages, by)
    if kind == 'a' then return true end
    if kind == 's' then
      if target == member.stage then
        refuse(flow, member.id, 'it is after stage ' .. target .. ', in which it is itself')
      end
      if stages[target] ~= nil then return stages[target] end
      local group = part(flow, 'g' .. target)
      if group then return group.finale end
      refuse(flow, member.id, 'it is after stage ' .. target .. ', which has no members yet: add them first')
    end
    local one = planned[target] or node_of(flow, target)
    if not one and not by and not ended_early(flow, target) then
      refuse(flow, member.id, 'it is after ' .. target .. ', which is no member yet: add it first')
    end
    return one and one.finale
  end

  local function check_stage(flow, member, stages, sealed, by)
    local stage = member.stage
    local group = part(flow, 'g' .. stage)
    if not group and stages[stage] == nil then stages[stage] = member.finale end
    local finale = stages[stage]
    if group then finale = group.finale end
    if finale ~= member.finale then
      refuse(flow, member.id, 'stage ' .. stage .. ' has members of the body, or of the finale: give it another stage')
    end
    local seal = group and group.seal
    if not sealed[stage] and not seal then return end
    if not by or by.stage ~= stage or not seal then
      refuse(flow, member.id, 'other members wait for stage ' .. stage .. ': add its own members first')
    end
    for _, after in ipairs(member.after) do
      local other = after[2] == 's' and part(flow, 'g' .. after[1])
      local one = after[2] == 'j' and node_of(flow, after[1])
      if one and one.stage ~= stage and one.order >= seal then
        refuse(flow, member.id, after[1] .. ' may wait for stage ' .. stage .. ': give it another stage')
      end
      if other and (not other.seal or other.seal >= seal) then
        refuse(flow, member.id, 'stage ' .. after[1] .. ' may wait for stage ' .. stage .. ': give it another stage')
      end
    end
  end

  local function check_inputs(flow, member, planned)
    if #member.inputs == 0 then return end
    local targets, stages, after_all = {}, {}, false
    for _, after in ipairs(member.after) do
      if after[2] == 'j' then targets[after[1]] = true end
      if after[2] == 's' then stages[after[1]] = true end
      after_all = after_all or after[2] == 'a'
    end
    for _, id in ipairs(member.inputs) do
      local taken = planned[id] or node_of(flow, id)
      if not (targets[id] or not taken or stages[taken.stage] or (after_all and not taken.finale)) then
        refuse(flow, member.id, 'it takes the result of ' .. id .. ', but is not after it')
      end
    end
  end

  -- Check new members in their order; change nothing. Return false and why they are refused, or true.
  local function plan(flow, members, by)
    local ids = {}
    for _, member in ipairs(members) do
      ids[#ids + 1] = member.id
      if #member.after > MOST_AFTER then
        local fix = 'it is after ' .. #member.after .. ' members and stages: at most ' .. MOST_AFTER .. ', use stages'
        return false, refusal(flow, member.id, fix)
      end
      for _, after in ipairs(member.after) do
        if after[2] == 'j' then ids[#ids + 1] = after[1] end
      end
    end
    fetch(flow, ids)
    local ok, problem = pcall(function()
      local planned, stages, sealed = {}, {}, {}
      for _, member in ipairs(members) do
        if planned[member.id] or node_of(flow, member.id) then refuse(flow, member.id, 'it is there already') end
        if not member.stage then member.stage = by and by.stage or '' end
        member.finale = by and by.finale or false
        for _, after in ipairs(member.after) do
          member.finale = check_target(flow, member, after[1], after[2], planned, stages, by) or member.finale
          if after[2] == 's' then sealed[after[1]] = true end
        end
        planned[member.id] = member
        if member.stage ~= '' then check_stage(flow, member, stages, sealed, by) end
        check_inputs(flow, member, planned)
      end
    end)
    if ok then return true end
    if type(problem) == 'table' and problem.refused then return false, problem.refused end
    error(problem)
  end

  local function wait_for(flow, node, id, target, kind, ended)
    local any_end = ended or node.when ~= 'd'
    local one, phase
    if kind == 'j' then
      one = node_of(flow, target)
      if not one then phase = ended_early(flow, target) and 'g' or 'd' else phase = BAD[one.phase] and one.phase end
    else
      one = group_of(flow, kind == 'a' and '' or target)
      phase = one.reported
      if kind == 's' and not one.seal then
        one.seal = flow.s.step - 1
        changed(flow, one)
      end
    end
    if one and (not phase or (BAD[phase] and not any_end)) then
      local list = any_end and 'e' or 'n'
      append(flow, list .. one.name, one[list .. 't'], id)
      one[list .. 't'] = one[list .. 't'] + 1
      changed(flow, one)
    end
    if phase then queue(flow, { 'i', id, any_end, phase }) end
  end

  local function enrol(flow, member)
    local s, node = flow.s, { name = 'n' .. member.id, phase = 'w', left = 0, stuck = 0, bad = false, lost = false }
    node.order, node.finale, node.when, node.stage, node.takes = s.step, member.finale, member.when, member.stage, false
    node.nf, node.nt, node.ef, node.et = 0, 0, 0, 0
    put(flow, node.name, node)
    for _, group in ipairs(groups_of(flow, node)) do
      group.left = group.left + 1
      group.reported = false -- nothing is after a stage that grows when it had ended: what is added next to it may be
      changed(flow, group)
    end
    s.total, s.w = s.total + 1, s.w + 1
    if s.total == MOST_LISTED + 1 and not flow.new then -- from now on, only live members are listed
      if #flow.ends > 0 then
        redis.call('HSET', ENDED .. flow.id, unpack(flow.ends))
        flow.ends = {}
      end
      local ids, ended = {}, redis.call('HGETALL', ENDED .. flow.id)
      for n = 1, #ended, 2 do ids[#ids + 1] = ended[n] end
      if #ids > 0 then redis.call('ZREM', ORDER .. flow.id, unpack(ids)) end
      redis.call('UNLINK', ENDED .. flow.id)
    end
    flow.order[#flow.order + 1], flow.order[#flow.order + 2] = s.total, member.id
    return node
  end

  -- Add a member that `plan` has accepted; it waits until `proceed` has looked at it.
  local function add_member(flow, member, job)
    local s = flow.s
    s.step, s.topic = s.step + 4, job.topic
    local node = enrol(flow, member)
    local group = member.stage ~= '' and part(flow, 'g' .. member.stage)
    if group and group.seal then node.order = group.seal - 1 end
    node.takes, node.left = #member.inputs > 0, #member.after
    for _, id in ipairs(member.inputs) do put(flow, 't' .. id, (part(flow, 't' .. id) or 0) + 1) end
    if not s.closed then
      node.left = node.left + 1
      append(flow, 'o', s.opening, member.id)
      s.opening = s.opening + 1
    elseif node.left == 0 then
      node.left = 1
      queue(flow, { 'i', member.id, false, 'd' })
    end
    for _, after in ipairs(member.after) do wait_for(flow, node, member.id, after[1], after[2], after[3]) end
    touch(flow)
    return node
  end

  local function close(flow)
    local s = flow.s
    s.closed = true
    if s.opening > 0 then queue(flow, { 'c', 'o', 0, s.opening, false, 'd' }) end
    queue(flow, { 'b' })
    queue(flow, { 'j', '' })
    redis.call('ZREM', OPEN, flow.id)
  end

  local function cancel(flow, finale)
    local s = flow.s
    s.keeps = finale and s.closed and (s.keeps or not s.cancelled) or false
    s.cancelled = true
    redis.call('SADD', CANCELLED, flow.id)
    if not s.closed then
      s.lost = 'was cancelled'
      close(flow)
    end
    queue(flow, { 's', '0' })
    touch(flow)
  end

  -- A job that a member adds when it ends; a dead letter if it cannot be in the flow, since the settlement stands. `take`, for
  -- a job with a unique key, takes it and returns nil, or the id of the job that holds it: a refused job is to hold no key.
  local function join(id, record, job, by, most, at, take)
    local adder = by and by.job.flow == job.flow and flow_of(job.flow) and node_of(flow_of(job.flow), by.id)
    if not adder then
      local why = 'it was added to flow ' .. job.flow .. ' by a job that is not a member of it'
      redis.call('HSET', JOBS, id, anew(record, job, limits_in(job), true))
      redis.call('SADD', TOPICS, job.topic)
      job.flow = nil
      return bury(id, job, history_of(id), why, '', most)
    end
    local flow, member = flow_of(job.flow), member_of(id, job)
    local ok, why = plan(flow, { member }, adder)
    local ends = ok and (is_barred(flow, adder) or is_barred(flow, member))
    local holder = ok and not ends and take and take()
    if holder then ok, why = false, refusal(flow, id, 'its unique key is held by ' .. holder) end
    if ok then
      add_member(flow, member, job)
      store_waiting(id, record, job, at)
      if ends then
        flush_jobs()
        redis.call('ZREM', WAITING .. job.topic, id)
        finish(id, job, 'cancelled', flow.s.cancelled_ttl, nil, IS_CANCELLED)
        jobs[id] = nil
      end
    else
      redis.call('HSET', JOBS, id, record)
      redis.call('SADD', TOPICS, job.topic)
      enrol(flow, { id = id, stage = '', finale = adder.finale, when = REFUSED })
      bury(id, job, history_of(id), why, '', most)
      touch(flow)
    end
  end

  -- Let a dead member run or wait again. Its job is in no list. Return false if its flow was cancelled or is gone.
  local function retry(id, job)
    local flow = flow_of(job.flow)
    local node = flow and not flow.s.cancelled and node_of(flow, id)
    if not node then return false end
    waits[job.topic] = waits[job.topic] or {}
    waits[job.topic][id] = place(job.priority, now)
    if node.left == 0 then job.delay, jobs[id] = 0, job end -- an operator wants it now
    enter(flow, node, 'w')
    look(flow, node)
    touch(flow)
    return true
  end

  local function can_retry(id, job)
    local flow = flow_of(job.flow)
    local node = flow and not flow.s.cancelled and node_of(flow, id)
    return node and node.when ~= REFUSED
  end

  local function barred(id, job)
    local flow = flow_of(job.flow)
    if not flow or not flow.s.cancelled then return false end
    local node = node_of(flow, id)
    return node and is_barred(flow, node) and true or false
  end

  -- {id, result, ...} of members whose results are taken, as many as fit; `first`: one of them in any case.
  local function results(flow_id, ids, most, first)
    local found = {}
    for _, id in ipairs(ids) do
      local result = redis.call('HGET', RESULTS .. flow_id, id)
      if result then
        most = most - #result
        if most < 0 and (#found > 0 or not first) then break end
        found[#found + 1], found[#found + 2] = id, result
      end
    end
    return found
  end

  local function inputs(job, most)
    local ids = cmsgpack.unpack(job.place)[4]
    return #ids > 0 and results(job.flow, ids, most, false) or {}
  end

  -- Some of the targets for which a waiting member still waits, dead ones first; it looks at the first hundred.
  local function waiting_for(job)
    local flow = flow_of(job.flow)
    if not flow then return {} end
    if not flow.s.closed then return { 'the last part of the flow' } end
    local after, bad, others, ids = cmsgpack.unpack(job.place)[2], {}, {}, {}
    for n = 1, math.min(#after, 100) do
      if after[n][2] == 'j' then ids[#ids + 1] = after[n][1] end
    end
    fetch(flow, ids)
    for n = 1, math.min(#after, 100) do
      local target, kind = after[n][1], after[n][2]
      local one, phase
      if kind == 'j' then
        one = node_of(flow, target)
        phase = one and BAD[one.phase] and one.phase
      else
        one = part(flow, 'g' .. (kind == 'a' and '' or target))
        phase = one and one.reported
      end
      if one and not FINAL[phase] then
        local which = phase and bad or others
        which[#which + 1] = target
      end
    end
    for _, target in ipairs(others) do bad[#bad + 1] = target end
    for n = #bad, 11, -1 do bad[n] = nil end
    return bad
  end

  its_flows = {
    STATES = STATES, PARTS = PARTS, ORDER = ORDER, ENDED = ENDED, RESULTS = RESULTS, LETTERS = LETTERS, WORK = WORK,
    EARLY = EARLY, RANKED = RANKED, WORKING = WORKING, CANCELLED = CANCELLED, OPEN = OPEN, KEPT = KEPT, FAILED = FAILED,
    new = new, flow_of = flow_of, node_of = node_of, state_of = state_of, proceed = proceed, proceed_others = proceed_others,
    flush = flush, plan = plan, member_of = member_of, add_member = add_member, store_waiting = store_waiting, close = close,
    cancel = cancel, join = join, retry = retry, can_retry = can_retry, barred = barred, results = results, inputs = inputs,
    waiting_for = waiting_for, touch = touch, has_work = has_work,
    limit = function(most) budget = math.min(budget, most) end,
  }
  return its_flows
end

-- Tell flows of the members that this script has ended, decide what follows, and write it all.
local function carry_on()
  if its_flows or #ended_members > 0 then
    flows().proceed()
    flows().flush()
  end
end
