-- Stands before the scripts that move an entry out of its stream; after pending.lua.

-- A stream's name never begins so: see src/event/names.ts.
local isWaiting = string.sub(stream, 1, 9) == 'outrider:'

-- The fields of an entry without those of its wait, and how many names and values. `at`: where in ARGV stands how many are the
-- script's own; behind these are the fields as they were read. Nothing where the entry was trimmed and these are not given.
local function fieldsOf(id, at)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local read = at + 1 + tonumber(ARGV[at])
  if not entry and #ARGV < read then return end
  local found = entry and entry[2] or {unpack(ARGV, read)}
  local fields, count = {}, 0
  for n = 1, #found, 2 do
    -- As many as unpack takes; what Outrider publishes has fewer than a hundred.
    if count < 7000 and string.sub(found[n], 1, 8) ~= 'waiting-' then
      fields[count + 1], fields[count + 2] = found[n], found[n + 1]
      count = count + 2
    end
  end
  return fields, count
end

-- The entry is elsewhere now.
local function finish(id)
  redis.call('XACK', stream, group, id)
  redis.call('HDEL', retries, id)
  if isWaiting then redis.call('XDEL', stream, id) end
end
