-- Documents. Needs order.
--
-- A record is "version changed until|" .. data; times are microseconds, `until` is 0 for a document that stays.

local DOCUMENTS, NAMES, EXPIRY = base .. 'documents:', base .. 'document-names:', base .. 'document-until:'
local VERSIONS = base .. 'document-versions'

local function read_document(kind, name)
  local record = redis.call('HGET', DOCUMENTS .. kind, name)
  if not record then return nil end
  local version, changed, ends, start = string.match(record, '^(%d+) (%d+) (%d+)|()')
  if not version or (ends ~= '0' and tonumber(ends) <= now) then return nil end
  return { name, version, changed, ends, string.sub(record, start) }
end

-- Whether a document has the expected version; 0 means that it must be absent, and an empty string that any will do.
local function is_at(kind, name, expected)
  if expected == '' then return true end
  local found = read_document(kind, name)
  return (found and found[2] or '0') == expected
end

local function forget_documents(kind, names)
  if #names == 0 then return end
  redis.call('HDEL', DOCUMENTS .. kind, unpack(names))
  redis.call('ZREM', NAMES .. kind, unpack(names))
  redis.call('ZREM', EXPIRY .. kind, unpack(names))
end

local function drop_expired(kind, most)
  forget_documents(kind, redis.call('ZRANGEBYSCORE', EXPIRY .. kind, '-inf', now, 'LIMIT', 0, most))
end
