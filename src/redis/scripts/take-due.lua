-- Takes entries of the waiting stream whose next attempt is due. Pending with this consumer, each is under its lease: kept by the
-- heartbeat, and claimed by another consumer when that ends.
-- ARGV  … the time in milliseconds, how many at most, the id at which the search for lost entries continues: '-' to begin with
-- KEYS  … the index of due times, that of first failures
-- Reply {{id, 0, '', fields without the payload, bytes} …, how many wait or are pending, since when the one fails that fails longest, in
--       milliseconds, the id at which the search continues, 1 where more are due: entries are read until they have so many bytes};
--       nothing where nothing has ever waited

-- Neither an id nor the fields without the payload can be read without the payload, which keeps all other clients waiting.
local MAX_BYTES = 8 * 1024 * 1024

local summary = redis.pcall('XPENDING', stream, group)
if summary.err then
  if not string.find(summary.err, 'NOGROUP', 1, true) then return summary end
  if redis.call('XLEN', stream) == 0 then return {} end
  redis.call('XGROUP', 'CREATE', stream, group, '0')
  summary = {0}
end
local since = '0'
for _ = 1, 100 do
  local first = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if not first[1] then break end
  if redis.call('XRANGE', stream, first[1], first[1])[1] then
    since = first[2]
    break
  end
  -- It was deleted by hand.
  redis.call('ZREM', KEYS[4], first[1])
end

-- An entry is in the index, or pending. One that is in neither was pending with a consumer, or in a group, that was removed: it
-- was due. One at a time, because it may be large; so many in one call, because a script keeps all others waiting.
local waiting, from = redis.call('ZCARD', KEYS[3]), ARGV[5]
if redis.call('XLEN', stream) > waiting + summary[1] then
  local bytes = 0
  for _ = 1, 1000 do
    if bytes >= MAX_BYTES then break end
    local entry = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
    from = entry and '(' .. entry[1] or '-'
    if not entry then break end
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    if not owner(entry[1]) then waiting = waiting + redis.call('ZADD', KEYS[3], 'NX', ARGV[3], entry[1]) end
  end
end

local taken, bytes, more = {}, 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])) do
  if bytes >= MAX_BYTES then
    more = 1
    break
  end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then
    redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    local envelope, size = envelopeOf(entry[2])
    taken[#taken + 1] = {id, 0, '', envelope, size}
    bytes = bytes + size
  end
  redis.call('ZREM', KEYS[3], id)
end
return {taken, waiting + summary[1], since, from, more}
