-- Reads for an ordered group: first whatever is pending with anybody else, then what is new, so that nothing overtakes.
-- KEYS  … the fence
-- ARGV  … the epoch of the lease, how many at most, and where a new holder continues to take all that is pending, with this
--       consumer, too: '-' to begin with; empty once it has all of it; how many bytes of new entries at most
-- Reply {whether all that was pending is taken, {id, deliveries, failed attempts, fields without the payload, bytes} …, new
--       entries, the id of the stream's last entry, 1 where there may be more new ones}. New entries beyond the bytes come without
--       their payload, and with their bytes. Or FENCED and the epoch that was seen: another worker holds the stream

local fence, epoch, most = KEYS[3], tonumber(ARGV[3]), tonumber(ARGV[4])
local seen = tonumber(redis.call('GET', fence) or '0')
if seen > epoch then return {'FENCED', seen} end
if seen < epoch then redis.call('SET', fence, epoch) end

local all, from = ARGV[5] ~= '', ARGV[5]
if not all then
  local summary = redis.call('XPENDING', stream, group)
  if hasUnowned(summary) then from = '-' end
  for _, consumer in ipairs(summary[4] or {}) do
    if consumer[1] ~= me then from = '-' end
  end
end

local taken = {}
while from ~= '' do
  local page = redis.call('XPENDING', stream, group, from, '+', 100)
  for _, entry in ipairs(page) do
    if all or entry[2] ~= me then
      if #taken == most then return {0, taken, {}} end
      taken[#taken + 1] = adopt(entry[1], entry[4])
    end
  end
  from = #page == 100 and '(' .. page[100][1] or ''
end

local fresh, more = readNew(most - #taken, tonumber(ARGV[6]))

local last, info = '0-0', redis.call('XINFO', 'STREAM', stream)
for n = 1, #info, 2 do
  if info[n] == 'last-generated-id' then last = info[n + 1] end
end
return {1, taken, fresh, last, more}
