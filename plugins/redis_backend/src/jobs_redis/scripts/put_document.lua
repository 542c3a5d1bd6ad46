-- Write a document, once per request. Needs document.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   4 kind   5 name   6 expected version, or empty
--          7 time to live in microseconds, or empty   8 most documents of a kind   9 data
-- Result   the new version, or -1 if the document does not have the expected one, or -2 if the kind is full
-- Writes   the first is one that a full Redis refuses, so that all of them happen, or none
-- Cost     O(log of the kind); up to 1,000 expired documents are dropped

local remembered = base .. 'request:document/' .. ARGV[2]
local answer = redis.call('GET', remembered)
if answer then return tonumber(answer) end
redis.call('SET', remembered, '-1', 'PX', ARGV[3])

local kind, name = ARGV[4], ARGV[5]
if not is_at(kind, name, ARGV[6]) then return -1 end
drop_expired(kind, 1000)
if redis.call('HEXISTS', DOCUMENTS .. kind, name) == 0 and redis.call('HLEN', DOCUMENTS .. kind) >= tonumber(ARGV[8]) then
  redis.call('DEL', remembered)
  return -2
end
local version = redis.call('HINCRBY', VERSIONS, kind, 1)
local ends = ARGV[7] == '' and 0 or now + ARGV[7]
redis.call('HSET', DOCUMENTS .. kind, name, whole(version) .. ' ' .. whole(now) .. ' ' .. whole(ends) .. '|' .. ARGV[9])
redis.call('ZADD', NAMES .. kind, 0, name)
if ends == 0 then redis.call('ZREM', EXPIRY .. kind, name) else redis.call('ZADD', EXPIRY .. kind, ends, name) end
redis.call('SET', remembered, whole(version), 'PX', ARGV[3])
return version
