-- Reads what Outrider keeps of groups beside their streams.
-- KEYS  for each group: its stream, the hash of failed attempts, the waiting stream, the index of due times, the dead letters
-- ARGV  a worker that was heard within so many milliseconds is alive; then for each group its name and its last delivered id
-- Reply for each: an error of Redis; or {id of the first entry that was not delivered or '', oldest pending id or '', its consumer,
--       its idle time in milliseconds, entries that failed and are pending, entries that wait, the earliest due time or '',
--       dead letters, names of workers that are alive}

local function survey(group, position, stream, retries, waiting, due, dead)
  local unread = redis.call('XRANGE', stream, '(' .. position, '+', 'COUNT', 1)[1]
  local pending = redis.call('XPENDING', stream, group, '-', '+', 1)[1] or {'', '', 0}
  local alive = {}
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = {}
    for n = 1, #flat, 2 do consumer[flat[n]] = flat[n + 1] end
    if consumer.idle < tonumber(ARGV[1]) and #alive < 1000 then alive[#alive + 1] = consumer.name end
  end
  -- Two fields are no entries: see find-unread.lua and move.lua.
  local failing = redis.call('HLEN', retries) - redis.call('HEXISTS', retries, 'unread') - redis.call('HEXISTS', retries, 'moved')
  return {
    unread and unread[1] or '', pending[1], pending[2], pending[3], failing, redis.call('XLEN', waiting),
    redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2] or '', redis.call('XLEN', dead), alive,
  }
end

local reply = {}
for n = 1, #KEYS / 5 do
  local ok, found = pcall(survey, ARGV[n * 2], ARGV[n * 2 + 1], unpack(KEYS, n * 5 - 4, n * 5))
  if not ok and type(found) == 'table' then found = found.err or found[1] end
  reply[n] = found
end
return reply
