-- How reserve takes jobs from a topic with lines. Needs common, lines.

local LOOKED_AT = 100 -- most closed lines that one reserve looks at
local MOST_LINED = 200 -- most jobs of lines that one reserve takes, so that it never takes the server over 50 ms

-- What one reserve may still take from lines, of all its topics.
local function bounds_of(startable)
  return { startable = tonumber(startable) or math.huge, looked = 0, lined = 0, exhausted = false, passed_over = false }
end

-- Reserve up to `left` jobs of a topic, from its plain line and from the others. Return whether one was passed over.
local function serve_lines(topic, left, bounds, hold, hold_members)
  local its = lines()
  local rule, ready = its.fair(topic), READY .. topic
  local plain_limits, passed_over, skipped, skips = {}, false, {}, 0
  if rule then
    its.need_schema(2)
    plain_limits[1] = its.key_limit(topic, '')
  end
  for _, limit in ipairs(redis.call('ZRANGEBYSCORE', its.OPENS .. topic, '-inf', now, 'LIMIT', 0, LOOKED_AT)) do
    local _, order = its.best(limit, topic)
    redis.call('ZREM', its.OPENS .. topic, limit)
    if order then redis.call('ZADD', its.OPENING .. topic, order, limit) end
  end

  local function counts_slots(limits)
    for _, limit in ipairs(limits) do
      local found = its.definition(limit)
      if found and found.concurrency then return true end
    end
    return false
  end

  local plain_left = true
  -- Order and position of the first job of the plain line, if it can start.
  local function plain_first()
    if not plain_left then return nil end
    local id, at = its.head_of(ready)
    if id and not its.blocker(plain_limits) then
      if rule and rule.most and bounds.startable <= 0 then
        passed_over = true
      else
        return rule and its.score(topic, math.floor(at / SPAN), '') or at, at
      end
    end
    plain_left = false
  end

  -- Take plain jobs: in a fair topic one, unless nothing else is left; in others those before a position, or all.
  local function take_plain(before)
    local count = left
    if rule and before then
      count = 1
    elseif before then
      count = math.min(left, redis.call('ZCOUNT', ready, '-inf', '(' .. whole(before)))
    elseif rule and rule.most then
      local used = tonumber(redis.call('HGET', its.USED, plain_limits[1]) or 0)
      count = math.min(left, rule.most - used, bounds.startable)
    end
    local taken = redis.call('ZPOPMIN', ready, count)
    count = #taken / 2
    local counted = ''
    if rule then
      counted = its.take(plain_limits, count)
      local last
      for n = 2, #taken, 2 do
        local rank = math.floor(taken[n] / SPAN)
        if rank ~= last then its.served(topic, rank, '') end
        last = rank
      end
      if rule.most then bounds.startable = bounds.startable - count end
      bounds.lined = bounds.lined + 1
    end
    left = left - count
    hold(topic, taken, counted)
  end

  while left > 0 do
    if bounds.looked >= LOOKED_AT or bounds.lined >= MOST_LINED then
      bounds.exhausted = true
      break
    end
    local line, order, at, from
    if skips < LOOKED_AT then
      line, order, at = its.best('', topic)
      local other, limit, its_order, its_at = its.best_opening(topic, order, at)
      if other then line, from, order, at = other, limit, its_order, its_at end
    end
    local plain_order, plain_at = plain_first()
    if plain_order and (not line or plain_order < order or (plain_order == order and plain_at < at)) then
      take_plain(line and at)
    elseif not line then
      break
    else
      if from then its.reopen(topic, line, from) end
      local key, limits = its.LINE .. topic .. '\n' .. line, its.limits_of(topic, line)
      local none, till = its.blocker(limits)
      local slots = not none and counts_slots(limits)
      if none then
        bounds.looked = bounds.looked + 1
        its.drop('', topic, line)
        its.shut(topic, line, at, redis.call('ZCARD', key), none, till)
      elseif slots and bounds.startable <= 0 then
        passed_over, skips = true, skips + 1
        if rule and rule.most then break end -- all others of the topic need a slot, too
        its.drop('', topic, line)
        skipped[skips] = { line, at }
      else
        local members, count = its.parts_of(line).members, 1
        if members and not rule and #limits == 0 then count = its.together(topic, key, plain_at, math.min(left, MOST_LINED)) end
        local first = redis.call('ZPOPMIN', key, count)
        count = #first / 2
        bounds.lined = bounds.lined + count
        if slots then bounds.startable = bounds.startable - 1 end
        local counted = its.take(limits, count, members)
        its.changed(topic, line, -count)
        if rule then its.served(topic, math.floor(first[2] / SPAN), its.parts_of(line).key or '') end
        if members then
          left = left - hold_members(topic, first, counted)
        else
          left = left - 1
          hold(topic, first, counted)
        end
      end
    end
  end
  for _, one in ipairs(skipped) do its.put('', topic, one[1], one[2]) end
  bounds.passed_over = bounds.passed_over or passed_over
  return passed_over
end
