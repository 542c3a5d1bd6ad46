-- Replace the payload of a dead letter, and perhaps its topic. Needs common, members, letters.
--
-- ARGV     2 id   3 payload that it has   4 new payload   5 new topic, or empty
-- Result   1; 0 if there is no such dead letter; -1 if it is a member of a flow and would change its topic
-- Cost     O(bytes)

local id, was, payload, topic = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local record = redis.call('HGET', JOBS, id)
local job = record and parse(record)
if not job or job.broken then return 0 end
local died, needed = redis.call('ZSCORE', DEAD .. job.topic, id), redis.call('ZSCORE', NEEDED .. job.topic, id)
if not (died or needed) then return 0 end
local shape, _, key_length, scope, lined, start = string.match(record, '^(%d+ %d) (%d+) (%d+) (%a) ?(%d*)|()')
local from = start + #job.topic + key_length + (tonumber(lined) or 0)
if string.sub(record, from) ~= was then return 0 end
local moves = topic ~= '' and topic ~= job.topic
if moves and job.flow then return -1 end
local own = string.sub(record, start + #job.topic, from - 1)
local to = moves and topic or job.topic
local head = shape .. ' ' .. #to .. ' ' .. key_length .. ' ' .. scope .. (lined ~= '' and ' ' .. lined or '') .. '|'
redis.call('HSET', JOBS, id, head .. to .. own .. payload)
if moves then
  redis.call('ZREM', DEAD .. job.topic, id)
  redis.call('ZADD', DEAD .. to, died, id)
  redis.call('SADD', TOPICS, to)
  local group = redis.call('HGET', LETTERS .. job.topic, id)
  local cause = group and redis.call('HGET', CAUSES .. job.topic, group)
  uncount_letters(job.topic, { id })
  count_letter(to, id, tonumber(died), cause and cmsgpack.unpack(cause))
end
return 1
