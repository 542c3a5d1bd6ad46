-- Check the store's schema, and begin an owner's lease. Needs common.
--
-- ARGV     2 owner, or empty for a producer   3 lease in microseconds   4 this release's schema version
-- Result   the store's schema version
-- Cost     constant

local schema = redis.call('HGET', META, 'schema')
if not schema then
  although_full()
  schema = ARGV[4]
  redis.call('HSET', META, 'schema', schema)
end
if ARGV[2] ~= '' and tonumber(schema) <= tonumber(ARGV[4]) then
  although_full()
  redis.call('ZADD', OWNERS, now + ARGV[3], ARGV[2])
end
return schema
