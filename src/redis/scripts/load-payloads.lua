-- Reads entries with their payload that are in this consumer's hands without it. Whether one was trimmed while it was pending is
-- decided here alone, where the entry and who has it are seen at once: what a replica, or a second look, does not find may exist.
-- ARGV  … how many bytes at most, the ids
-- Reply {id, fields} for each in turn, as many as fit, one at least; {id, 1} for one that was trimmed while it was pending here, and is
--       acknowledged; {id, 0} for one that is gone and someone else has dealt with

local left, found = tonumber(ARGV[3]), {}
for n = 4, #ARGV do
  local id = ARGV[n]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then
    local _, size = envelopeOf(entry[2])
    if size > left and #found > 0 then break end
    left = left - size
    found[#found + 1] = {id, entry[2]}
  elseif owner(id) == me then
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', retries, id)
    found[#found + 1] = {id, 1}
  else
    found[#found + 1] = {id, 0}
  end
end
return found
