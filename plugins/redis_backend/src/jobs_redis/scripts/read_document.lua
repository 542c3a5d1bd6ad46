-- Read a document. Needs document.
--
-- ARGV     2 kind   3 name
-- Result   now, then {name, version, changed, until or 0, data} if the document is not absent
-- Cost     O(1)

local found = read_document(ARGV[2], ARGV[3])
return found and { now, found } or { now }
