-- Finds the first event of a source in a stream from an entry on.
--
-- KEYS  the stream
-- ARGV  the source, the entry to begin at
-- Reply the position of the event; `none` where no entry is of the source; `unknown` where there are too many others to look at

local PAGE, MAX_ENTRIES, MAX_BYTES = 10, 1000, 1048576

local from, seen, bytes = ARGV[2], 0, 0
while seen < MAX_ENTRIES and bytes < MAX_BYTES do
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', PAGE)
  for _, entry in ipairs(entries) do
    local source, sequence
    local fields = entry[2]
    for n = 1, #fields, 2 do
      bytes = bytes + #fields[n + 1]
      if fields[n] == 'source' then source = fields[n + 1] elseif fields[n] == 'sequence' then sequence = fields[n + 1] end
    end
    if source == ARGV[1] then return sequence or 'unknown' end
  end
  if #entries < PAGE then return 'none' end
  seen = seen + #entries
  from = '(' .. entries[#entries][1]
end
return 'unknown'
