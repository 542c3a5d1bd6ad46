-- Check the store's schema, and begin an owner's lease. Needs common.
--
-- ARGV     2 owner, or empty for a producer   3 lease in microseconds   4 the schema version of a new store
--          5 the newest that this release knows
-- Result   the store's schema version
-- Cost     constant

local schema = redis.call('HGET', META, 'schema')
if not schema then
  although_full()
  schema = ARGV[4]
  redis.call('HSET', META, 'schema', schema)
end
if ARGV[2] ~= '' and tonumber(schema) <= tonumber(ARGV[5]) then
  although_full()
  redis.call('ZADD', OWNERS, now + ARGV[3], ARGV[2])
  redis.call('HSET', OWNER .. ARGV[2], 'schema', ARGV[5])
end
return schema
