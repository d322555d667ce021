-- Claims entries that no consumer has touched for too long, and those that have no owner.
-- ARGV  … the idle time in milliseconds, how many at most, the id to begin at, and whose they must be, if that matters
-- Reply {id, deliveries, failed attempts, fields without the payload, bytes} for each; {id, deliveries} for one that was trimmed

local idle, most, from, whose = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local found = {}
for _, entry in ipairs(redis.call('XPENDING', stream, group, 'IDLE', idle, from, '+', unpack(whose and {most, whose} or {most}))) do
  found[#found + 1] = adopt(entry[1], entry[4])
end

-- Of so many pages at most, because a script keeps all others waiting: what is behind them is found when they are done.
local pages = 0
while not whose and #found < most and pages < 100 and hasUnowned(redis.call('XPENDING', stream, group)) do
  local page = redis.call('XPENDING', stream, group, from, '+', 100)
  for _, entry in ipairs(page) do
    if entry[2] == '' and #found < most then found[#found + 1] = adopt(entry[1], entry[4]) end
  end
  if #page < 100 then break end
  pages, from = pages + 1, '(' .. page[100][1]
end
return found
