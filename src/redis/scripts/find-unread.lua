-- Finds entries that were removed from the stream before they were delivered to the group. Each is reported once: the field
-- `unread` of the hash of failed attempts holds how far.
-- Reply {how many, last-delivered-id, entries-read, entries-added, length}; how many is 0 where nothing is new or Redis
--       cannot tell
--
--   entries-added   |1 2 3 4 5 6 7 8 9 10|
--   removed          x x x x x x             entries-added - length
--   delivered        ======                  entries-read, as long as nothing was lost
--   lost                   -----

local position
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local found = infoOf(flat)
  if found.name == group then position = found end
end
local info = infoOf(redis.call('XINFO', 'STREAM', stream))
local read, added = position and position['entries-read'], info['entries-added']
if not read or not added then return {0} end

local last, told = position['last-delivered-id'], tonumber(redis.call('HGET', retries, 'unread') or '0')
local removed = added - info.length
if last == info['last-generated-id'] then
  -- All is delivered, so what entries-read still lacks is told, or is not known to Redis 7 since a failover.
  local lacks = added - read
  if not corrects and lacks ~= told then redis.call('HSET', retries, 'unread', lacks) end
  return {0}
end
-- Where entries-read is corrected, `unread` is what was removed at the last report; else all that is missing in entries-read.
local lost = corrects and removed - math.max(read, told) or removed - read - told
if lost <= 0 then return {0} end
-- What was delivered goes before what was not: where some of it is left, nothing after it was trimmed.
if redis.call('XRANGE', stream, '-', last, 'COUNT', 1)[1] then return {0} end
redis.call('HSET', retries, 'unread', corrects and removed or removed - read)
return {lost, last, read, added, info.length}
