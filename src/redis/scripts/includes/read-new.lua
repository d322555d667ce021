-- Stands before the scripts that read new entries; after pending.lua.

-- Redis bounds a read in entries, not in bytes. So it is done in pages, until there are so many entries, or their fields have so many
-- bytes: an entry that exceeds these comes without its payload, as {id, fields without the payload, bytes}, and ends the read with its
-- page. Returns the entries, and 1 where there may be more.
local function readNew(most, maxBytes)
  local fresh, left, isFull = {}, maxBytes, false
  while #fresh < most and not isFull do
    local count = math.min(32, most - #fresh)
    local reply = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', stream, '>')
    local page = reply and reply[1] and reply[1][2] or {}
    for _, entry in ipairs(page) do
      local size = 0
      for _, text in ipairs(entry[2] or {}) do size = size + #text end
      if size > left then
        isFull = true
        entry = {entry[1], envelopeOf(entry[2]), size}
      else
        left = left - size
      end
      fresh[#fresh + 1] = entry
    end
    if #page < count then return fresh, 0 end
  end
  return fresh, 1
end
