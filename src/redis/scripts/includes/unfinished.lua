-- Stands before every script that must know what the groups of a stream have not finished: not read, or not acknowledged. After
-- entry-id.lua and stream-info.lua.

local MAX_COUNTED, MAX_COUNTED_BYTES, PAGE = 500, 1048576, 20

-- How many entries come after this one; -1: more than are counted. Payloads are read for it: only where Redis does not know.
local function countAfter(stream, last)
  local count, bytes = 0, 0
  while count <= MAX_COUNTED and bytes <= MAX_COUNTED_BYTES do
    local page = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', PAGE)
    count = count + #page
    if #page < PAGE then return count end
    last = page[#page][1]
    for _, entry in ipairs(page) do
      for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    end
  end
  return -1
end

-- Of each group {name, the first id that it has not finished, how many entries from there on it has not finished}. The number is -1
-- where it is not known, and nil without `counts`. `info`: of XINFO STREAM.
--
--   finished | pending  finished  pending | unread
--            ^ the first id that is not   ^ after the last delivered one
local function unfinishedOf(stream, info, counts)
  local groups = {}
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = infoOf(flat)
    local last = group['last-delivered-id']
    local first, unread = nextId(last), nil
    if group.pending > 0 then
      local oldest = redis.call('XPENDING', stream, group.name)[2]
      if oldest and before(oldest, first) then first = oldest end
    end
    if counts then
      if not before(last, info['last-generated-id']) then unread = 0
      else unread = group.lag or countAfter(stream, last) end
      if unread >= 0 then unread = unread + group.pending end
    end
    groups[#groups + 1] = {group.name, first, unread}
  end
  return groups
end
