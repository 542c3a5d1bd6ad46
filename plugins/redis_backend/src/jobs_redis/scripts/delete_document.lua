-- Delete a document, once per request. Needs document.
--
-- ARGV     2 request   3 milliseconds for which it is remembered   4 kind   5 name   6 expected version, or empty
-- Result   1, or 0 if the document is absent or does not have the expected version
-- Cost     O(log of the kind)

local remembered = base .. 'request:document/' .. ARGV[2]
local answer = redis.call('GET', remembered)
if answer then return tonumber(answer) end
local kind, name = ARGV[4], ARGV[5]
local deleted = read_document(kind, name) ~= nil and is_at(kind, name, ARGV[6])
if deleted then
  forget_documents(kind, { name }) -- first, because a full Redis allows it, and then what follows
  redis.call('HINCRBY', VERSIONS, kind, 1)
end
redis.call('SET', remembered, deleted and '1' or '0', 'PX', ARGV[3])
return deleted and 1 or 0
