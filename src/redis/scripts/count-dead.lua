-- How many dead letters groups of a stream have, and since when.
--
-- KEYS  the dead letters of a group, …
-- Reply {{entries, the first id} …}: 0 and 0-0 without any

local counts = {}
for n, key in ipairs(KEYS) do
  local reported = redis.pcall('XINFO', 'STREAM', key)
  if not reported.err then
    local info = infoOf(reported)
    counts[n] = {info.length, info['first-entry'] and info['first-entry'][1] or '0-0'}
  elseif string.find(reported.err, 'no such key', 1, true) then
    counts[n] = {0, '0-0'}
  else
    return reported
  end
end
return counts
