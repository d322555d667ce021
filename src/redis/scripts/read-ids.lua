-- Reads the ids of events from a stream, without their payloads.
--
-- KEYS  the stream
-- ARGV  the source of the events, the entry to read from (inclusive; `(` before it: exclusive), how many entries at most
-- Reply the last entry that was read, empty when there is none behind it; then the ids
--
-- Payloads are read nevertheless, and stay until the script ends: so it ends early where they are large.

local PAGE, MAX_BYTES = 20, 1048576

local from, left, bytes = ARGV[2], tonumber(ARGV[3]), 0
local reply = {''}
while left > 0 and bytes < MAX_BYTES do
  local count = math.min(PAGE, left)
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    local id, source
    local fields = entry[2]
    for n = 1, #fields, 2 do
      local name, value = fields[n], fields[n + 1]
      bytes = bytes + #value
      if name == 'id' then id = value elseif name == 'source' then source = value end
    end
    if id and source == ARGV[1] then reply[#reply + 1] = id end
  end
  if #entries < count then
    reply[1] = ''
    return reply
  end
  left = left - #entries
  reply[1] = entries[#entries][1]
  from = '(' .. reply[1]
end
return reply
