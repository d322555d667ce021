-- Finds the first event of a source that a stream still has.
--
-- KEYS  see trimmable.lua
-- ARGV  … the source
-- Reply {status, position, id}
--   OK     of the first event; `none`: no entry is of the source; `unknown`: there are too many others to look at
--   MOVED  the stream may not be trimmed: events may be lost that were before it

local PAGE, MAX_ENTRIES, MAX_BYTES = 10, 1000, 1048576

if not trimmable() then return {'MOVED', '', ''} end
local from, seen, bytes = '-', 0, 0
while seen < MAX_ENTRIES and bytes < MAX_BYTES do
  local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', PAGE)
  for _, entry in ipairs(entries) do
    local found = {}
    for n = 1, #entry[2], 2 do
      found[entry[2][n]] = entry[2][n + 1]
      bytes = bytes + #entry[2][n + 1]
    end
    if found.source == ARGV[4] then return {'OK', found.sequence or 'unknown', found.id or ''} end
  end
  if #entries < PAGE then return {'OK', 'none', ''} end
  seen = seen + #entries
  from = '(' .. entries[#entries][1]
end
return {'OK', 'unknown', ''}
