-- Push as push.lua does if a document has a version. Needs document.
--
-- ARGV     those of push.lua, without an inlet, then the kind, the name and the version of the document; 0 if it must be absent
-- Result   that of push.lua; false if the document has another version
-- Cost     that of push.lua

if redis.call('EXISTS', base .. 'request:' .. ARGV[2]) == 0 and not is_at(ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV]) then
  return false
end
-- Needs push from here on.
