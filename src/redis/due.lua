-- Takes entries of the waiting stream whose next attempt is due. Pending with this consumer, each is under its lease: kept by the
-- heartbeat, and claimed by another consumer when that ends.
-- ARGV  … the time in milliseconds, how many at most
-- KEYS  … the index of due times
-- Reply {{id, 0, '', fields without the payload, bytes} …, how many wait or are pending, since when the first of the stream fails, in milliseconds};
--       nothing where nothing has ever waited

local summary = redis.pcall('XPENDING', stream, group)
if summary.err then
  if string.find(summary.err, 'NOGROUP', 1, true) then return {} end
  return summary
end
local since = '0'
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
for n = 1, first and #first[2] or 0, 2 do
  if first[2][n] == 'waiting-since' then since = first[2][n + 1] end
end

local waiting = redis.call('ZCARD', KEYS[3])
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])) do
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then
    redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    local envelope, size = envelopeOf(entry[2])
    taken[#taken + 1] = {id, 0, '', envelope, size}
  end
  redis.call('ZREM', KEYS[3], id)
end
return {taken, waiting + summary[1], since}
