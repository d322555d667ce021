-- Stands before every script that must know whether a stream is the one that a head was written beside. After entry-id.lua.

-- What is wrong, as a text; nothing where it is sound. `info`: of XINFO STREAM; `entry`: that the head names, not 0-0; `was`: how many
-- entries had ever been added to the stream then, or nothing: Redis 6.2 does not count them.
local function mismatchOf(info, entry, was)
  if before(info['last-generated-id'], entry) then return 'the stream ends before the entry that the head names' end
  -- The stream may have been deleted, and someone else have written to it since. Entries up to the head's are missing
  -- only where they were trimmed, and then as many were removed as there were.
  local first, added = info['recorded-first-entry-id'], info['entries-added']
  if added and was and (added < was
    or ((first == '0-0' or before(entry, first)) and added - info['length'] < was)) then
    return 'the stream is another one than the head was written beside'
  end
end
