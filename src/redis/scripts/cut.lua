-- Removes the first entries of a stream that has too many, also those that groups have not finished.
--
-- KEYS  see trimmable.lua
-- ARGV  … how many entries may stay
-- Reply {status, how many entries were removed, {group, how many of them it had not finished …}}
--   OK     cut
--   MOVED  the stream may not be trimmed; nothing removed

local info = trimmable()
if not info then return {'MOVED', 0, {}} end
local too = info.length - tonumber(ARGV[4])
if too <= 0 then return {'OK', 0, {}} end

-- How many entries from `first` to `last` there are is only told by reading them.
local first, step = info['first-entry'][1], math.min(STEP, too)
local groups = {}
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = infoOf(flat)
  groups[#groups + 1] = group
  if not before(group['last-delivered-id'], first) then step = math.min(step, TAIL) end
end
for _, group in ipairs(groups) do
  local last = group['last-delivered-id']
  group.read = before(last, first) and 0 or #redis.call('XRANGE', stream, first, last, 'COUNT', step)
end
local removed = redis.call('XTRIM', stream, 'MAXLEN', info.length - step)
local now = infoOf(redis.call('XINFO', 'STREAM', stream))['first-entry'][1]

local cut = {}
for _, group in ipairs(groups) do
  local unfinished = removed - math.min(removed, group.read)
  if group.pending > 0 then
    unfinished = unfinished + #redis.call('XPENDING', stream, group.name, first, '(' .. now, STEP)
  end
  if unfinished > 0 then
    cut[#cut + 1] = group.name
    cut[#cut + 1] = unfinished
  end
end
return {'OK', removed, cut}
