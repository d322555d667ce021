-- Claims entries that nobody has touched for too long, whoever had them.
-- ARGV  … the idle time in milliseconds, how many at most, and whose they must be, if that matters
-- Reply {id, deliveries, failed attempts, fields} for each

local found = {}
for _, entry in ipairs(redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], '-', '+', unpack(ARGV, 4))) do
  found[#found + 1] = adopt(entry[1], entry[4])
end
return found
